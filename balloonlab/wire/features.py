"""Feature bits of the balloon device, of the seed's series and of today."""

from __future__ import annotations

from enum import IntFlag


class Feature(IntFlag):
    """What device and driver agree on before the first message (virtio 1.x section 5.5.3)."""

    MUST_TELL_HOST = 1 << 0
    """Pages may leave the balloon only after the device used the message that names them."""
    STATS_VQ = 1 << 1
    """A queue for memory statistics; balloonlab's driver has none and never accepts it."""
    DEFLATE_ON_OOM = 1 << 2
    """A guest out of memory may take pages back, so ballooned pages stay part of its memory."""
    PAGE_BITMAP = 1 << 3
    """The series' own: records of ``bitmap-v4`` instead of page numbers."""
    FREE_PAGE_HINT = 1 << 3
    """The same bit in today's devices, so the series can no longer be deployed on its own bits."""
    REPORTING = 1 << 5
    """A queue for free blocks (free page reporting)."""
    VHOST_USER = 1 << 30
    """Of the transport: vhost-user has protocol features of its own."""
    VERSION_1 = 1 << 32
    """Of the transport: virtio 1.0 and later."""
