"""Checks of page numbers that come from outside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..address_map import ram_ranges
from ..sizes import PAGE_BYTES, format_size

PFN_LIMIT = 1 << 52
"""Physical addresses have 64 bits, page numbers 52 (seed patch, record head)."""


def as_pfns(pfns: npt.ArrayLike, name: str = "pfns") -> npt.NDArray[np.uint64]:
    """Bring page numbers into the form that kernels take.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Any integer type. A contiguous ``uint64`` array is not copied.
    name : str
        The argument's name, for error messages.

    Returns
    -------
    uint64 array, shape (n,)

    Raises
    ------
    TypeError
        The values are not integers.
    ValueError
        Not one-dimensional, or negative.
    """
    array = np.asarray(pfns)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.uint64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {array.shape}")
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}")
    return np.ascontiguousarray(array, dtype=np.uint64)


def duplicates_message(pfns: npt.NDArray[np.uint64]) -> str:
    """Say which pages an array holds more than once."""
    values, counts = np.unique(pfns, return_counts=True)
    repeated = values[counts > 1]
    return (
        f"pfns must not repeat a page: {repeated.size} of {values.size} do, "
        f"the first is {int(repeated[0])}; numpy.unique(pfns) removes repetitions"
    )


def check_in_ram(pfns: npt.NDArray[np.uint64], memory_pages: int) -> None:
    """Check that every page is RAM of a guest and none comes twice.

    Raises
    ------
    ValueError
        Naming the first offending page and the ranges that are RAM.
    """
    ranges = ram_ranges(memory_pages)
    inside = np.zeros(pfns.shape, bool)
    for start, end in ranges:
        inside |= (pfns >= np.uint64(start)) & (pfns < np.uint64(end))
    if not inside.all():
        allowed = " and ".join(f"[{start}, {end})" for start, end in ranges)
        raise ValueError(
            f"pfns must be the guest's RAM, page numbers {allowed} for memory="
            f"{format_size(memory_pages * PAGE_BYTES)}; "
            f"{np.count_nonzero(~inside)} are not, the first is {int(pfns[~inside][0])}"
        )
    seen = np.zeros(ranges[-1].end, bool)
    seen[pfns] = True
    if np.count_nonzero(seen) != pfns.size:
        raise ValueError(duplicates_message(pfns))
