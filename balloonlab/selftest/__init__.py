"""balloonlab against itself: hostile guests, every byte of memory, kernels against peers."""

from .benchmark import time_kernels
from .contents import verify
from .hostile import fuzz

__all__ = ["fuzz", "time_kernels", "verify"]


def __dir__() -> list[str]:
    return __all__
