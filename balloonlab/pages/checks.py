"""Checks of arguments: page numbers that come from outside, their memory, names of choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import psutil

from ..address_map import ram_ranges
from ..sizes import PAGE_BYTES, format_size

Seed = int | np.random.Generator
"""Where random numbers come from: ``numpy.random.default_rng`` takes it."""

PFN_LIMIT = 1 << 52
"""Physical addresses have 64 bits, page numbers 52 (seed patch, record head)."""

PFN_ROOM_BYTES = 16
"""Memory for each page while page numbers are made: 8 bytes, and 8 of what they are made from."""


def as_pfns(pfns: npt.ArrayLike, name: str = "pfns") -> npt.NDArray[np.uint64]:
    """Bring page numbers into the form that kernels take.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Any integer type. A contiguous ``uint64`` array is not copied.
    name : str
        The argument's, for error messages.

    Returns
    -------
    uint64 array, shape (n,)

    Raises
    ------
    TypeError, ValueError
        The values are not integers; they are not one-dimensional, negative, or masked.

    Examples
    --------
    >>> as_pfns([5, 3])
    array([5, 3], dtype=uint64)
    """
    if np.ma.is_masked(pfns):
        raise ValueError(
            f"{name} must not have masked entries, got a masked array; "
            f"{name}.compressed() leaves them out"
        )
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


def check_room(balloon_pages: int) -> None:
    """Check that a balloon's page numbers fit the available memory (MemoryError: what fits)."""
    available = psutil.virtual_memory().available
    if (needed := PFN_ROOM_BYTES * balloon_pages) > available:
        fits = format_size(available // PFN_ROOM_BYTES * PAGE_BYTES)
        raise MemoryError(
            f"the page numbers of balloon={format_size(balloon_pages * PAGE_BYTES)} need "
            f"{format_size(needed)} of memory, but only {format_size(available)} are available; "
            f"a balloon of {fits} would fit"
        )


def not_one_of(name: str, value: object, choices: Iterable[str], rule: str = "") -> ValueError:
    """Return the error of an argument that is none of its choices, with the nearest of them."""
    listed = list(choices)
    near = difflib.get_close_matches(str(value), listed, n=1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    text = ", ".join([*listed, rule] if rule else listed)
    return ValueError(f"{name} must be one of {text}, got {value!r}{hint}")


def duplicates_message(pfns: npt.NDArray[np.uint64], name: str = "pfns") -> str:
    """Return the message of an array that repeats pages; `name` is the argument's."""
    values, counts = np.unique(pfns, return_counts=True)
    repeated = values[counts > 1]
    return (
        f"{name} must not repeat a page: of {values.size} pages {repeated.size} come more than "
        f"once, the first is {int(repeated[0])}; numpy.unique removes repetitions"
    )


def check_in_ram(pfns: npt.NDArray[np.uint64], memory_pages: int, name: str = "pfns") -> None:
    """Check that every page is RAM of a guest and none is repeated; `name` is the argument's.

    The ``ValueError`` names the first offending page and the ranges that are RAM.
    """
    ranges = ram_ranges(memory_pages)
    inside = np.zeros(pfns.shape, bool)
    for start, end in ranges:
        inside |= (pfns >= np.uint64(start)) & (pfns < np.uint64(end))
    if not inside.all():
        allowed = " and ".join(f"[{start}, {end})" for start, end in ranges)
        raise ValueError(
            f"{name} must be the guest's RAM, page numbers {allowed} for memory="
            f"{format_size(memory_pages * PAGE_BYTES)}; "
            f"{np.count_nonzero(~inside)} are not, the first is {int(pfns[~inside][0])}"
        )
    seen = np.zeros(ranges[-1].end, bool)
    seen[pfns] = True
    if np.count_nonzero(seen) != pfns.size:
        raise ValueError(duplicates_message(pfns, name))
