"""Page orders of real guests: a Linux kernel in QEMU, its balloon, and every page it tells."""

from .capture import record, record_all
from .errors import CaptureError
from .guest import missing
from .planning import Planned, plan
from .session import Captured
from .states import STATES

__all__ = [
    "STATES",
    "CaptureError",
    "Captured",
    "Planned",
    "missing",
    "plan",
    "record",
    "record_all",
]
