"""Which kernels encode and decode a format: the numbers that formats are dispatched by."""

from __future__ import annotations

from enum import IntEnum

from .bitmap_v4 import decode_records
from .blocks import decode_blocks
from .compile import kernel
from .pfn import decode_pfns


class Encoding(IntEnum):
    """How a driver encodes pages (`balloonlab.kernels.encode`)."""

    PFNS = 0
    """Arrays of page numbers."""
    RECORDS = 1
    """Bitmaps, cut into records of ``bitmap-v4``."""
    RECORDS_AS_POSTED = 2
    """The same as posted in Nov 2016, defects included."""
    BLOCKS = 3
    """A descriptor per block of pages, as free page reporting posts them."""


class Decoding(IntEnum):
    """How a device decodes a buffer."""

    PFNS = 0
    RECORDS = 1
    BLOCKS = 2
    """Not the buffers, but what they are: blocks of free pages (reporting, hinting)."""


@kernel
def decode(decoding, words, n_bytes, ranges, faults):
    """Turn one buffer into ranges; see `decode_pfns`, `decode_records`, `decode_blocks`."""
    if decoding == Decoding.PFNS:
        return decode_pfns(words, n_bytes, ranges, faults)
    if decoding == Decoding.RECORDS:
        return decode_records(words, n_bytes, ranges, faults)
    if decoding == Decoding.BLOCKS:
        return decode_blocks(words, n_bytes, ranges, faults)
    return 0
