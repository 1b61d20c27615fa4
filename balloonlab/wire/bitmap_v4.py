"""``bitmap-v4``: the seed patch, its defects corrected.

What is on the wire is what the patch's routines would put there, with one
exception: as posted, the highest page is never sent when it is the first page of
a window (the exclusive end of the walk is that page itself). Here it is sent.
"""

from __future__ import annotations

from dataclasses import replace

from ..kernels.bitmap_v4 import BITMAP_WORDS, HEADER_BYTES, PFN_BITS, RECORD_WORDS, RESERVED_WORDS
from ..kernels.formats import Decoding, Encoding
from .features import Feature
from .format import Format


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Bound the buffers: full areas, of two words per page at most, and one per window.

    A driver short of memory has windows of a single bitmap.
    """
    full = 2 * n_pages // (RECORD_WORDS - RESERVED_WORDS)
    return full + min(n_pages, span_pages // (64 * BITMAP_WORDS) + 1)


BITMAP_V4 = Format(
    name="bitmap-v4",
    encoding=Encoding.RECORDS,
    decoding=Decoding.RECORDS,
    max_message_bytes=HEADER_BYTES + 8 * RECORD_WORDS,
    pfn_limit=1 << PFN_BITS,
    discard="range",
    feature=Feature.PAGE_BITMAP,
    max_kicks=max_kicks,
)

BITMAP_V4_WIDE = replace(BITMAP_V4, name="bitmap-v4-wide", encoding=Encoding.RECORDS_WIDE)
"""Up to seven bitmap words behind a head, as the six bits of bmap_len allow."""
