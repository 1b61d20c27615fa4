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
from .format import Format

HEADER_BYTES = 8
MAX_MESSAGE_BYTES = HEADER_BYTES + 8 * kernels.RECORD_WORDS


def encode(pfns: npt.ArrayLike) -> list[bytes]:
    """Pack, split and cut into buffers; see `balloonlab.wire.encode`."""
    pages = as_pfns(pfns)
    area = np.empty(kernels.RECORD_WORDS, np.uint64)
    stream = []
    for first_pfn, words in pack_windows(pages):
        cursor = np.zeros(2, np.int64)
        while n := kernels.fill_records(words, first_pfn, kernels.WINDOW_WORDS, cursor, area):
            header = (8 * n << 32).to_bytes(HEADER_BYTES, "little")
            stream.append(header + area[:n].tobytes())
    return stream


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Bound the buffers: full areas, of two words a page at most, and one a window."""
    full = 2 * n_pages // (kernels.RECORD_WORDS - kernels.RESERVED_WORDS)
    return full + min(n_pages, span_pages // (64 * kernels.WINDOW_WORDS) + 1)


BITMAP_V4 = Format(
    name="bitmap-v4",
    number=kernels.FORMAT,
    max_message_bytes=MAX_MESSAGE_BYTES,
    discard="range",
    encode=encode,
    max_kicks=max_kicks,
    decode_kernel=kernels.decode_records,
)
