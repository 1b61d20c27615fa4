"""``range-v6``, ``chunk-v7``, ``desc-v11``, ``cont-pages``: runs of pages, a record each.

Layouts: the patch series of Dec 2016 (v6), Mar 2017 (v7) and later (v9 to v11), and a proposal of
2020 with 32-bit page numbers and counts. As posted, all but the last sort their pages by a bitmap
first; here the last does, too. Where v7's posting is silent, the message begins with the number of
records, and an extended one is as in v6.
"""

from __future__ import annotations

from ..kernels.bitmap_v4 import BITMAP_WORDS, RECORD_WORDS
from ..kernels.formats import Decoding, Encoding
from ..kernels.run_records import MOST_WORDS, PFN_BITS, Runs
from .features import Feature
from .format import Format
from .pfn import PFN32_LIMIT


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Bound the buffers: full areas, of a record per page at most, and one per window."""
    full = MOST_WORDS * n_pages // (RECORD_WORDS - MOST_WORDS)
    return full + min(n_pages, span_pages // (64 * BITMAP_WORDS) + 1)


def runs_of(wire_format: Format) -> Runs | None:
    """Return which runs of pages a format's records are; None where they are others."""
    number = int(wire_format.encoding) - Encoding.RANGE_V6
    return Runs(number) if 0 <= number < len(Runs) else None


def _make(name: str, encoding: Encoding, pfn_limit: int = 1 << PFN_BITS) -> Format:
    return Format(
        name=name,
        encoding=encoding,
        decoding=Decoding[encoding.name],
        max_message_bytes=8 * RECORD_WORDS,
        pfn_limit=pfn_limit,
        discard="range",
        feature=Feature.PAGE_BITMAP,
        max_kicks=max_kicks,
    )


RANGE_V6 = _make("range-v6", Encoding.RANGE_V6)
CHUNK_V7 = _make("chunk-v7", Encoding.CHUNK_V7)
DESC_V11 = _make("desc-v11", Encoding.DESC_V11)
CONT_PAGES = _make("cont-pages", Encoding.CONT_PAGES, PFN32_LIMIT)
