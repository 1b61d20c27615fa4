"""``bitmap-v3``: the bitmap as it is, behind a header of 32 bytes (the series' third version).

A message here is at most the record area of the others: header and 4092 words of bitmap. Words
without pages before the first and behind the last one are left out.
"""

from __future__ import annotations

from ..kernels.bitmap_v3 import HEADER_WORDS, PFN_BITS
from ..kernels.bitmap_v4 import BITMAP_WORDS, RECORD_WORDS
from ..kernels.formats import Decoding, Encoding
from .features import Feature
from .format import Format


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Bound the buffers: full areas over the span, one per window, and one per page."""
    full = span_pages // (64 * (RECORD_WORDS - HEADER_WORDS)) + 1
    return min(n_pages, full + span_pages // (64 * BITMAP_WORDS) + 1)


BITMAP_V3 = Format(
    name="bitmap-v3",
    encoding=Encoding.RAW,
    decoding=Decoding.RAW,
    max_message_bytes=8 * RECORD_WORDS,
    pfn_limit=1 << PFN_BITS,
    discard="range",
    feature=Feature.PAGE_BITMAP,
    max_kicks=max_kicks,
)
