"""How fragmented: runs of a page set, bits in its bitmap, free blocks of an allocator.

The numbers that reviewers of the 2016 series asked for and did not get: how many bits
are set per bitmap, and how often a bitmap is used at all.

A page set is an array-like of integers, shape (n,), in any order. A repeated page raises
``ValueError``, what is no page number ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from .buddy import Buddy
from .checks import as_pfns, duplicates_message

__all__ = [
    "BITMAP_PAGES", "BITMAP_WORDS", "WORD_PAGES", "bitmap_occupancy", "encoding_summary",
    "free_blocks", "run_lengths", "summary", "unusable_index", "word_occupancy",
]  # fmt: skip

WORD_PAGES = 64
"""Pages of one bitmap word."""

BITMAP_PAGES = 262_144
"""Pages of one bitmap of 32 KiB (seed patch): 1 GiB."""

BITMAP_WORDS = BITMAP_PAGES // WORD_PAGES
"""Words of one bitmap."""


def run_lengths(pfns: npt.ArrayLike) -> pd.DataFrame:
    """Count the runs of consecutive pages by their length.

    Returns
    -------
    pandas.DataFrame
        One row per length, ascending: ``run_pages`` (the length), ``n_runs``,
        ``pages_share`` (of all pages, in runs of that length).

    Examples
    --------
    >>> run_lengths([7, 8, 20])[["run_pages", "n_runs"]].to_numpy().tolist()
    [[1, 1], [2, 1]]
    """
    pages = _as_sorted_set(pfns)
    lengths, n_runs = np.unique(_lengths(np.diff(pages) != 1, pages.size), return_counts=True)
    share = lengths * n_runs / max(1, pages.size)
    return pd.DataFrame({"run_pages": lengths, "n_runs": n_runs, "pages_share": share})


def word_occupancy(pfns: npt.ArrayLike) -> pd.DataFrame:
    """Count the words of a bitmap by how many of their bits are set.

    The bitmap is that of the wire (`balloonlab.wire.pack`): it spans the words from the
    lowest page's to the highest page's. A hole in RAM between them counts as empty
    words; memory below or above does not count.

    Returns
    -------
    pandas.DataFrame
        65 rows: ``bits_set`` (0 to 64), ``n_words``, ``words_share`` (of all words),
        ``pages_share`` (of all pages, in such words). Shares of an empty set are 0.

    Examples
    --------
    >>> word_occupancy(range(0, 128, 8))["n_words"][8]
    np.int64(2)
    """
    pages = _as_sorted_set(pfns)
    words, bits_set = _words(pages)
    n_words = np.bincount(bits_set, minlength=WORD_PAGES + 1)
    if words.size:
        n_words[0] = int(words[-1] - words[0]) + 1 - words.size
    frame = pd.DataFrame({"bits_set": np.arange(WORD_PAGES + 1), "n_words": n_words})
    frame["words_share"] = n_words / max(1, n_words.sum())
    return frame.assign(pages_share=frame["bits_set"] * n_words / max(1, pages.size))


def bitmap_occupancy(pfns: npt.ArrayLike) -> pd.DataFrame:
    """Count pages and words by bitmap of 32 KiB, of 262,144 pages (1 GiB) each.

    Bitmaps follow each other from the word of the lowest page, as in the seed patch.
    Those without any page are left out: no driver would send them.

    Returns
    -------
    pandas.DataFrame
        One row per bitmap, ascending: ``bitmap`` (its number, from 0), ``first_pfn`` (the
        page of its first bit), ``bits_set``, ``n_full``, ``n_mixed`` and ``n_empty``
        (words with 64, 1 to 63, and no bits set; 4096 in all).
    """
    pages = _as_sorted_set(pfns)
    words, bits_set = _words(pages)
    base = words[0] if words.size else np.uint64(0)
    number = (words - base) // np.uint64(BITMAP_WORDS)
    frame = pd.DataFrame(
        {"bitmap": number, "bits_set": bits_set, "n_full": bits_set == WORD_PAGES, "n_words": 1}
    )
    frame = frame.groupby("bitmap", as_index=False).sum()
    n_words = frame.pop("n_words")
    frame.insert(1, "first_pfn", (frame["bitmap"] * BITMAP_WORDS + base) * WORD_PAGES)
    return frame.assign(n_mixed=n_words - frame["n_full"], n_empty=BITMAP_WORDS - n_words)


def summary(sets: Mapping[str, npt.ArrayLike]) -> pd.DataFrame:
    """Describe page sets, one row for each name of `sets`.

    Returns
    -------
    pandas.DataFrame
        ``name``, ``n_pages``, ``n_runs``, ``mean_run_pages``, ``n_words``, then of these
        words ``full_words_share`` (all 64 bits set), ``mixed_words_share`` and
        ``empty_words_share``, and of the pages ``pages_in_full_share`` and
        ``pages_in_mixed_share``. Words as in `word_occupancy`.
    """
    rows = []
    for name, pfns in sets.items():
        runs, words = run_lengths(pfns), word_occupancy(pfns)
        empty, mixed, full = words.iloc[0], words.iloc[1:-1].sum(), words.iloc[-1]
        n_runs, n_pages = int(runs["n_runs"].sum()), int(runs["run_pages"] @ runs["n_runs"])
        rows.append(
            {
                "name": name,
                "n_pages": n_pages,
                "n_runs": n_runs,
                "mean_run_pages": n_pages / max(1, n_runs),
                "n_words": int(words["n_words"].sum()),
                "full_words_share": full["words_share"],
                "mixed_words_share": mixed["words_share"],
                "empty_words_share": empty["words_share"],
                "pages_in_full_share": full["pages_share"],
                "pages_in_mixed_share": mixed["pages_share"],
            }
        )
    return pd.DataFrame(rows)


def encoding_summary(sets: Mapping[str, npt.ArrayLike]) -> pd.DataFrame:
    """Summarize how ``bitmap-v4`` encodes page sets, one row for each name of `sets`.

    A word of which some bits are set becomes a record with a bitmap of one word. Words with all
    bits set become blocks: runs of them, cut where a bitmap of 32 KiB ends, split into powers of
    two. A block of a single word saves nothing over its bitmap but the bitmap itself.

    Returns
    -------
    pandas.DataFrame
        ``name``, ``n_pages``, ``runs_per_gib`` (of the pages), ``bits_per_word`` and
        ``bits_per_bitmap`` (means over those with any bit set, of 64 and of 262,144), and
        shares of the pages: ``blocks_share`` (in blocks of 128 pages and more),
        ``full_words_share`` (in blocks of 64), ``mixed_words_share`` (in bitmaps).
    """
    rows = []
    for name, pfns in sets.items():
        pages = _as_sorted_set(pfns)
        words, bits_set = _words(pages)
        n = max(1, pages.size)
        full = words[bits_set == WORD_PAGES]
        base = words[0] if words.size else np.uint64(0)
        starts_bitmap = (full - base)[1:] % BITMAP_WORDS == 0
        bitmaps = (words - base) // np.uint64(BITMAP_WORDS)
        n_bitmaps = _lengths(np.diff(bitmaps) != 0, words.size).size
        runs = _lengths((np.diff(full) != 1) | starts_bitmap, full.size)
        single = WORD_PAGES * int((runs & 1).sum())
        rows.append(
            {
                "name": name,
                "n_pages": pages.size,
                "runs_per_gib": BITMAP_PAGES / n * _lengths(np.diff(pages) != 1, pages.size).size,
                "bits_per_word": pages.size / max(1, words.size),
                "bits_per_bitmap": pages.size / max(1, n_bitmaps),
                "blocks_share": (WORD_PAGES * full.size - single) / n,
                "full_words_share": single / n,
                "mixed_words_share": int(bits_set[bits_set < WORD_PAGES].sum()) / n,
            }
        )
    return pd.DataFrame(rows)


def free_blocks(buddy: Buddy) -> pd.DataFrame:
    """Count an allocator's free blocks by order, with their `unusable_index`.

    Returns
    -------
    pandas.DataFrame
        One row per order, 0 to 10: ``order``, ``n_blocks``, ``n_pages``, ``unusable_index``.
    """
    n_blocks = buddy.free_blocks()
    order = np.arange(n_blocks.size)
    frame = pd.DataFrame({"order": order, "n_blocks": n_blocks, "n_pages": n_blocks << order})
    return frame.assign(unusable_index=unusable_index(n_blocks))


def unusable_index(n_blocks: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the unusable free space index: the share of free memory in too small blocks.

    ``F_u(j) = (free - sum(2**i * n_blocks[i] for i >= j)) / free`` for requests of order
    ``j``: 0 where every free page is in a block that serves, 1 where none is.

    Parameters
    ----------
    n_blocks : array-like of int, shape (n_orders,)
        Free blocks of order 0, 1, and so on, as in ``/proc/buddyinfo``.

    Returns
    -------
    float64 array, shape (n_orders,)
        1 for all orders where nothing is free, as Linux has it.

    References
    ----------
    M. Gorman and A. Whitcroft, "The What, The Why and the Where To of
    Anti-Fragmentation", Ottawa Linux Symposium 2006; Linux, ``unusable_free_index`` in
    ``mm/vmstat.c`` (debugfs ``extfrag/unusable_index``).
    """
    n_pages = np.asarray(n_blocks, np.int64)
    n_pages = n_pages << np.arange(n_pages.size)
    too_small = np.cumsum(n_pages) - n_pages
    return too_small / n_pages.sum() if n_pages.any() else np.ones(n_pages.size)


def _as_sorted_set(pfns: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    pages = as_pfns(pfns)
    if (pages[1:] < pages[:-1]).any():
        pages = np.sort(pages)
    if (pages[1:] == pages[:-1]).any():
        raise ValueError(duplicates_message(pages))
    return pages


def _lengths(cuts: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.int64]:
    """Return the lengths of the pieces of `n` elements, cut where ``cuts`` between two is true."""
    return np.diff(np.flatnonzero(cuts) + 1, prepend=0, append=n)[:n]  # no piece of no element


def _words(pages: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the numbers of the words that are not empty, and how many bits each has set.

    Counted from the sorted pages and not from a bitmap, which over 52-bit page numbers
    would not fit any memory.
    """
    words = pages // np.uint64(WORD_PAGES)
    bits_set = _lengths(np.diff(words) != 0, words.size)
    return words[np.cumsum(bits_set) - bits_set], bits_set
