"""Page orders of real guests: a Linux kernel in QEMU, its balloon, and every page it tells."""

from .capture import record, record_all
from .errors import CaptureError
from .guest import missing
from .operate import Captured
from .states import STATES
from .wanted import Wanted, plan

__all__ = [
    "STATES",
    "CaptureError",
    "Captured",
    "Wanted",
    "missing",
    "plan",
    "record",
    "record_all",
]
