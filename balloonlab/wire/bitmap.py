"""Page bitmaps, as far as Python callers meet them: pack pages, split into records, find runs."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..kernels import adaptive_plan
from ..kernels import bitmap as kernels
from ..kernels.bitmap_v4 import WINDOW_WORDS
from ..kernels.formats import Encoding
from ..pages.checks import PFN_LIMIT, as_pfns, duplicates_message
from .format import RANGE, collect, make_encoder

SPARE_RUNS = kernels.GROUP
"""Entries that `find_runs` needs beyond the runs."""


def pack(pfns: npt.ArrayLike) -> tuple[int, npt.NDArray[np.uint64]]:
    """Set one bit per page.

    Parameters
    ----------
    pfns : array-like of int, shape (n,), n > 0
        In any order. A TypeError or ValueError for none, for a page twice, for no page numbers.

    Returns
    -------
    first_pfn : int
        Page of bit 0: the lowest page, rounded down to a multiple of 64.
    words : uint64 array
        The bitmap, least significant bit first, up to the word of the highest page.

    Examples
    --------
    >>> first_pfn, words = pack([64, 65, 70])
    >>> first_pfn, f"{words[0]:b}"
    (64, '1000011')
    """
    pages = as_pfns(pfns)
    if pages.size == 0:
        raise ValueError("pfns must hold at least one page: an empty set has no bitmap")
    blocks, low, high = _survey(pages)
    return _fill(pages, blocks, low & -kernels.WORD, high)


def _survey(pages: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], int, int]:
    blocks = np.empty(kernels.survey_words(pages.size), np.uint64)
    low, high = kernels.survey(pages, blocks)
    if high >= PFN_LIMIT:
        raise ValueError(f"pfns must be below 2**52 ({PFN_LIMIT}), got {int(high)}")
    return blocks, int(low), int(high)


def _fill(
    pages: npt.NDArray[np.uint64], blocks: npt.NDArray[np.uint64], first_pfn: int, high: int
) -> tuple[int, npt.NDArray[np.uint64]]:
    words = np.zeros((high - first_pfn) // kernels.WORD + 1, np.uint64)
    kernels.set_bits(pages, blocks, first_pfn, words)
    if kernels.count_bits(words) != pages.size:
        raise ValueError(duplicates_message(pages))
    return first_pfn, words


def pack_windows(pages: npt.NDArray[np.uint64]) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
    """Yield checked pages as bitmaps (see `pack`) that hold every window with pages in it.

    One bitmap serves as long as it is no larger than the page array. Sparser pages (fewer than
    one in 64 over more than 32 GiB) are sorted and packed window by window: a bitmap over 52-bit
    page numbers would not fit any memory. First pages are a multiple of the window apart.
    """
    if pages.size == 0:
        return
    blocks, low, high = _survey(pages)
    base = low & -kernels.WORD
    if (high - base) // kernels.WORD < max(pages.size, WINDOW_WORDS):
        yield _fill(pages, blocks, base, high)
        return
    pages = np.sort(pages)
    window = (pages - np.uint64(base)) // np.uint64(WINDOW_WORDS * kernels.WORD)
    cuts = np.flatnonzero(np.diff(window)) + 1
    for part, number in zip(np.split(pages, cuts), window[np.r_[0, cuts]], strict=True):
        blocks, _, high = _survey(part)
        yield _fill(part, blocks, base + int(number) * WINDOW_WORDS * kernels.WORD, high)


def split(
    windows: Iterable[tuple[int, npt.NDArray[np.uint64]]], encoding: int = Encoding.RECORDS
) -> tuple[list[bytes], int]:
    """Split bitmaps (see `pack`) into messages; return them and their number of records.

    They come in ascending order. Messages end with each, but those of segments.
    """
    stream, n_records = list[bytes](), 0
    for part, so_far in split_windows(windows, encoding):
        stream += part
        n_records = so_far
    return stream, n_records


def split_windows(
    windows: Iterable[tuple[int, npt.NDArray[np.uint64]]], encoding: int
) -> Iterator[tuple[list[bytes], int]]:
    """Yield the messages that are due after each bitmap, and the number of records so far."""
    encoder = make_encoder(encoding, 0, 0)
    state, left = encoder.state[0], iter(windows)
    window = next(left, None)
    while window:
        (first_pfn, words), window = window, next(left, None)
        encoder = encoder._replace(bitmaps=words)
        if encoding == Encoding.SEGMENTS:
            encoder = encoder._replace(chosen=_plan(first_pfn, words))
        state["start_pfn"], state["n_words"], state["word"] = first_pfn, words.size, 0
        state["bit"], state["goes_on"] = 0, window is not None
        encoder.own[:] = 0
        yield collect(encoder), int(state["n_records"])


def _plan(first_pfn: int, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Plan the segments of a bitmap, window by window as the driver does."""
    chosen = np.empty(words.size, np.uint8)
    for at in range(0, words.size, WINDOW_WORDS):
        part = slice(at, at + WINDOW_WORDS)
        adaptive_plan.plan(words[part], first_pfn + at * kernels.WORD, chosen[part])
    return chosen


def find_runs(
    words: npt.ArrayLike, first_pfn: int = 0, out: npt.NDArray[np.void] | None = None
) -> npt.NDArray[np.void]:
    """Find the runs of set bits in a bitmap.

    Parameters
    ----------
    words : array-like of uint64, shape (n,)
        As `pack` returns them.
    first_pfn : int
        Page of bit 0.
    out : structured array of `RANGE`, optional
        Room for the runs and `SPARE_RUNS` more, to be used again from call to call: fresh memory
        costs as much as finding the runs.

    Returns
    -------
    structured array
        Fields ``start_pfn`` and ``n_pages``, ascending; no two runs touch. A view of `out` where
        that was given.

    Raises
    ------
    TypeError
        `words` is not ``uint64``: other types would leave the order of bits open.
    ValueError
        `out` is too small or of another type.
    """
    bitmap = np.ascontiguousarray(words)
    if bitmap.dtype != np.uint64 or bitmap.ndim != 1:
        raise TypeError(
            f"words must be a one-dimensional uint64 array, got {bitmap.dtype} of shape "
            f"{bitmap.shape}"
        )
    if not 0 <= operator.index(first_pfn) < PFN_LIMIT:
        raise ValueError(f"first_pfn must be a page number below 2**52, got {first_pfn}")
    needed = int(kernels.count_runs(bitmap)) + SPARE_RUNS
    if out is None:
        out = np.empty(needed, RANGE)
    elif (
        not isinstance(out, np.ndarray)
        or out.dtype != RANGE
        or out.ndim != 1
        or out.size < needed
        or not (out.flags.c_contiguous and out.flags.writeable)
    ):
        raise ValueError(
            f"out must be a writeable, contiguous, one-dimensional array of {needed} or more "
            f"entries of balloonlab.wire.RANGE, got {out!r:.80}"
        )
    n = kernels.find_runs(bitmap, first_pfn, out.view(np.int64).reshape(-1, 2))
    return out[:n]
