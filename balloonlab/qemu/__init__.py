"""An unmodified QEMU as the host: its own balloon device under balloonlab's driver.

`balloonlab.measure` and its kin drive it with ``host="qemu"``; the parts are here.
"""

from .device import BLOCKS_PER_KICK, Operation, QemuBalloon
from .memory import FIRMWARE, HostView, page_index
from .process import FILL, QemuProcess, find
from .protocols import DISCARDS
from .qtest import QemuError

__all__ = [
    "BLOCKS_PER_KICK",
    "DISCARDS",
    "FILL",
    "FIRMWARE",
    "HostView",
    "Operation",
    "QemuBalloon",
    "QemuError",
    "QemuProcess",
    "find",
    "page_index",
]
