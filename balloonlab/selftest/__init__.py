"""balloonlab against itself: hostile guests, every byte of memory, kernels against peers."""

from .benchmark import bench
from .contents import verify
from .hostile import fuzz

__all__ = ["bench", "fuzz", "verify"]


def __dir__() -> list[str]:
    return __all__
