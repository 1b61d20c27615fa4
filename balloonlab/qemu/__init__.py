"""An unmodified QEMU as the host: its own balloon device under balloonlab's driver."""

from .device import QemuBalloon
from .measuring import measure
from .process import QemuProcess, find
from .qtest import QemuError

__all__ = ["QemuBalloon", "QemuError", "QemuProcess", "find", "measure"]
