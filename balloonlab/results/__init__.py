"""What came out: every number that README and notebooks state, computed from ``data/``."""

from .export import all_numbers, render, write
from .number import Number

__all__ = ["Number", "all_numbers", "render", "write"]


def __dir__() -> list[str]:
    return __all__
