"""Which kernels encode and decode a format: the numbers that formats are dispatched by."""

from __future__ import annotations

from enum import IntEnum

from .adaptive import decode_segments
from .bitmap_v3 import decode_raw
from .bitmap_v4 import decode_records
from .blocks import decode_blocks
from .compile import kernel
from .own import FIRST_ADDRESS, decode_own
from .pfn import decode_pfns
from .run_records import decode_runs


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
    RECORDS_WIDE = 4
    """As RECORDS, up to seven bitmap words a head."""
    RAW = 5
    """A header and the bitmap."""
    SEGMENTS = 6
    """Of several kinds (`balloonlab.kernels.adaptive`)."""
    RANGE_V6 = 7
    CHUNK_V7 = 8
    DESC_V11 = 9
    CONT_PAGES = 10
    """From RANGE_V6 on: runs of pages, in the order of `balloonlab.kernels.run_records.Runs`."""


class Decoding(IntEnum):
    """How a device decodes a buffer."""

    PFNS = 0
    RECORDS = 1
    BLOCKS = 2
    """Not the buffers, but what they are: blocks of free pages (reporting, hinting)."""
    RAW = 3
    SEGMENTS = 4
    RANGE_V6 = 5
    CHUNK_V7 = 6
    DESC_V11 = 7
    CONT_PAGES = 8
    """From RANGE_V6 on: runs of pages, in the order of `balloonlab.kernels.run_records.Runs`."""


@kernel
def decode(decoding, words, n_bytes, ranges, faults):
    """Turn one buffer into ranges; see `decode_records` and what it is called for."""
    if decoding == Decoding.PFNS:
        return decode_pfns(words, n_bytes, ranges, faults)
    if decoding == Decoding.RECORDS:
        return decode_records(words, n_bytes, ranges, faults)
    if decoding == Decoding.BLOCKS:
        return decode_blocks(words, n_bytes, ranges, faults)
    if decoding == Decoding.RAW:
        return decode_raw(words, n_bytes, ranges, faults)
    if decoding == Decoding.SEGMENTS:
        return decode_segments(words, n_bytes, ranges, faults)
    if Decoding.RANGE_V6 <= decoding <= Decoding.CONT_PAGES:
        return decode_runs(decoding - Decoding.RANGE_V6, words, n_bytes, ranges, faults)
    if decoding >= FIRST_ADDRESS:
        return decode_own(decoding, words, n_bytes, ranges, faults)
    return 0
