"""Plain Python in the place of each intrinsic: what runs without the JIT, and the tests' twin.

The GIL orders their memory accesses.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def trailing_zeros(word: np.uint64) -> int:
    """Return the index of the lowest set bit of a uint64, 64 for zero."""
    value = int(word)
    return (value & -value).bit_length() - 1 if value else 64


def popcount(word: np.uint64) -> int:
    """Count the set bits of a uint64."""
    return int(word).bit_count()


def clear_lowest(word: np.uint64) -> np.uint64:
    """Clear the lowest set bit of a uint64; zero stays zero."""
    value = int(word)
    return np.uint64(value & (value - 1)) if value else word


def copy_items(there: np.ndarray, here: np.ndarray) -> None:
    """Copy an array into one of its size."""
    there[:] = here


def load_acquire(array: np.ndarray, index: int) -> Any:
    """Read ``array[index]``; later reads see what was stored before it."""
    return array[index]


def store_release(array: np.ndarray, index: int, value: Any) -> None:
    """Set ``array[index]``; whoever sees it sees all earlier stores too."""
    array[index] = value


def atomic_xor(array: np.ndarray, index: int, value: Any) -> None:
    """Do ``array[index] ^= value`` in one step."""
    array[index] ^= value


def fence() -> None:
    """Order every earlier store before every later load (virtio's mb)."""
