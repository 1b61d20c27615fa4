"""``pfn``: what Linux has sent from the start; 32-bit page numbers, 256 a kick.

virtio 1.x section 5.5.6.1; ``VIRTIO_BALLOON_ARRAY_PFNS_MAX`` in the driver.
"""

from __future__ import annotations

import numpy.typing as npt

from ..kernels import pfn as kernels
from ..pages.checks import as_pfns
from .bitmap import pack_windows
from .features import Feature
from .format import Format

PFN_LIMIT = 1 << 32
"""A 32-bit page number reaches 16 TiB."""

MAX_MESSAGE_BYTES = 4 * kernels.PFNS_PER_BUFFER


def encode(pfns: npt.ArrayLike) -> list[bytes]:
    """Cut the pages into buffers of 256 in list order; see `balloonlab.wire.encode`."""
    pages = as_pfns(pfns)
    if pages.size and pages.max() >= PFN_LIMIT:
        raise ValueError(
            f"pfns must be below 2**32 in 'pfn', got {int(pages.max())}: use 'bitmap-v4'"
        )
    for _ in pack_windows(pages):  # raises when a page comes twice
        pass
    data = pages.astype("<u4").tobytes()
    return [data[i : i + MAX_MESSAGE_BYTES] for i in range(0, len(data), MAX_MESSAGE_BYTES)]


def max_kicks(n_pages: int, span_pages: int) -> int:
    """Tell how many buffers there are: one for each 256 pages begun."""
    return -(-n_pages // kernels.PFNS_PER_BUFFER)


PFN = Format(
    name="pfn",
    number=kernels.FORMAT,
    max_message_bytes=MAX_MESSAGE_BYTES,
    discard="page",
    feature=Feature(0),
    encode=encode,
    max_kicks=max_kicks,
    decode_kernel=kernels.decode_pfns,
)
