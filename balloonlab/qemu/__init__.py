"""An unmodified QEMU as the host: its own balloon device under balloonlab's driver.

`balloonlab.measure` and its kin drive it with ``host="qemu"``; the parts are here.
"""

from .memory import FIRMWARE, HostView, page_index
from .process import FILL, QemuProcess, find
from .qtest import QemuError
from .transport import NO_RAM_PFN, QemuTransport

__all__ = [
    "FILL",
    "FIRMWARE",
    "NO_RAM_PFN",
    "HostView",
    "QemuError",
    "QemuProcess",
    "QemuTransport",
    "find",
    "page_index",
]


def __dir__() -> list[str]:
    return __all__
