"""``pfn``: what Linux has sent from the start; 32-bit page numbers, 256 per kick.

virtio 1.x section 5.5.6.1; ``VIRTIO_BALLOON_ARRAY_PFNS_MAX`` in the driver. Nothing on the wire
says how many there are: a driver may send more or fewer.
"""

from __future__ import annotations

from dataclasses import replace

from ..kernels.formats import Decoding, Encoding
from ..kernels.pfn import PFNS_PER_BUFFER
from .features import Feature
from .format import Format

PFN32_LIMIT = 1 << 32
"""A 32-bit page number reaches 16 TiB."""

LEAST_KICK_PAGES, MOST_KICK_PAGES = 64, 65_536
"""Page numbers per kick, between which a driver may be asked to choose."""


def with_kick_pages(wire_format: Format, kick_pages: int) -> Format:
    """Return a format of page numbers with so many per kick; a ValueError for others."""
    if kick_pages == wire_format.kick_pages:
        return wire_format
    if wire_format.encoding != Encoding.PFNS:
        raise ValueError(
            f"kick_pages must be {wire_format.kick_pages} with protocol={wire_format.name!r}, "
            f"got {kick_pages!r}: its messages are no lists of pages"
        )
    if not LEAST_KICK_PAGES <= kick_pages <= MOST_KICK_PAGES:
        limits = f"from {LEAST_KICK_PAGES} to {MOST_KICK_PAGES}"
        raise ValueError(f"kick_pages must be a whole number {limits}, got {kick_pages!r}")
    return replace(
        wire_format,
        kick_pages=kick_pages,
        max_message_bytes=4 * kick_pages,
        max_kicks=lambda n_pages, span_pages: -(-n_pages // kick_pages),
    )


PFN = Format(
    name="pfn",
    encoding=Encoding.PFNS,
    decoding=Decoding.PFNS,
    max_message_bytes=4 * PFNS_PER_BUFFER,
    pfn_limit=PFN32_LIMIT,
    discard="page",
    feature=Feature(0),
    max_kicks=lambda n_pages, span_pages: -(-n_pages // PFNS_PER_BUFFER),
)
