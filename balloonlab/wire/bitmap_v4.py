"""``bitmap-v4``: the seed patch, its defects corrected.

What is on the wire is what the patch's routines would put there, with one
exception: as posted, the highest page is never told when it is the first page of
a window (the exclusive end of the walk is that page itself). Here it is told.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..kernels import bitmap_v4 as kernels
from ..pages.checks import as_pfns
from .bitmap import pack_windows
from .features import Feature
from .format import Format

MAX_MESSAGE_BYTES = kernels.HEADER_BYTES + 8 * kernels.RECORD_WORDS


def message(records: npt.NDArray[np.uint64]) -> bytes:
    """Put the response header before the words of the record area."""
    header = (records.nbytes << 32).to_bytes(kernels.HEADER_BYTES, "little")
    return header + records.tobytes()


def encode(pfns: npt.ArrayLike) -> list[bytes]:
    """Pack, split and cut into buffers; see `balloonlab.wire.encode`."""
    bitmaps = pack_windows(as_pfns(pfns))
    return [buffer for first_pfn, words in bitmaps for buffer in split(first_pfn, words)[0]]


def split(first_pfn: int, words: npt.NDArray[np.uint64]) -> tuple[list[bytes], int]:
    """Split a bitmap, as `balloonlab.wire.pack` returns it, into buffers of records.

    Returns
    -------
    buffers : list of bytes
    n_records : int
        In all of them.
    """
    area = np.empty(kernels.RECORD_WORDS, np.uint64)
    cursor = np.zeros(2, np.int64)
    stream = []
    while n := kernels.fill_records(words, first_pfn, kernels.WINDOW_WORDS, cursor, area):
        stream.append(message(area[:n]))
    return stream, int(cursor[1])


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Bound the buffers: full areas, of two words a page at most, and one a window.

    A driver short of memory has windows of a single bitmap.
    """
    full = 2 * n_pages // (kernels.RECORD_WORDS - kernels.RESERVED_WORDS)
    return full + min(n_pages, span_pages // (64 * kernels.BITMAP_WORDS) + 1)


BITMAP_V4 = Format(
    name="bitmap-v4",
    number=kernels.FORMAT,
    max_message_bytes=MAX_MESSAGE_BYTES,
    discard="range",
    feature=Feature.PAGE_BITMAP,
    encode=encode,
    max_kicks=max_kicks,
    decode_kernel=kernels.decode_records,
)
