"""``pfn``: what Linux has sent from the start; 32-bit page numbers, 256 per kick.

virtio 1.x section 5.5.6.1; ``VIRTIO_BALLOON_ARRAY_PFNS_MAX`` in the driver.
"""

from __future__ import annotations

from ..kernels.formats import Decoding, Encoding
from ..kernels.pfn import PFNS_PER_BUFFER
from .features import Feature
from .format import Format

PFN32_LIMIT = 1 << 32
"""A 32-bit page number reaches 16 TiB."""


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Return the number of buffers: one for each 256 pages begun."""
    return -(-n_pages // PFNS_PER_BUFFER)


PFN = Format(
    name="pfn",
    encoding=Encoding.PFNS,
    decoding=Decoding.PFNS,
    max_message_bytes=4 * PFNS_PER_BUFFER,
    pfn_limit=PFN32_LIMIT,
    discard="page",
    feature=Feature(0),
    max_kicks=max_kicks,
)
