"""What came out: every number that README and notebooks state, computed from ``data/``."""

from .number import Number
from .prose import all_numbers, say, write

__all__ = ["Number", "all_numbers", "say", "write"]
