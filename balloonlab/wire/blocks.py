"""Blocks of free pages, as reporting and hinting name them: by their descriptors, no bytes."""

from __future__ import annotations

from ..kernels.encode import DESCRIPTOR_BYTES
from ..kernels.formats import Decoding, Encoding
from .features import Feature
from .format import Format

LONGEST_CHAIN = 256
"""Descriptors of the largest queue that Linux asks for."""

BLOCKS = Format(
    name="blocks",
    encoding=Encoding.BLOCKS,
    decoding=Decoding.BLOCKS,
    max_message_bytes=DESCRIPTOR_BYTES * LONGEST_CHAIN,
    pfn_limit=1 << 52,
    discard="range",
    feature=Feature.REPORTING | Feature.FREE_PAGE_HINT,
    max_kicks=lambda n_pages, span_pages: n_pages,
)
"""How a device reads them. No format of `balloonlab.wire.formats`: nothing is on the wire."""
