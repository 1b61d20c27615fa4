"""Feature bits of the balloon device, as the seed's series numbered them."""

from __future__ import annotations

from enum import IntFlag


class Feature(IntFlag):
    """What device and driver agree on before the first message (virtio 1.x section 5.5.3).

    Bits 0 to 2 are virtio's. Bit 3 is the series' own: today's devices have given it to
    FREE_PAGE_HINT, so the series can no longer be deployed on its own bits.
    """

    MUST_TELL_HOST = 1 << 0
    """Pages may leave the balloon only after the host was told."""
    STATS_VQ = 1 << 1
    """A queue for memory statistics; balloonlab's driver has none and never accepts it."""
    DEFLATE_ON_OOM = 1 << 2
    """A guest out of memory may take pages back, so ballooned pages stay part of its memory."""
    PAGE_BITMAP = 1 << 3
    """Records of ``bitmap-v4`` instead of page numbers."""
