"""Page orders of real guests: a Linux kernel in QEMU, its balloon, and every page it sends."""

from ..linux.errors import GuestError as CaptureError
from ..linux.states import STATES
from .booted import missing
from .planning import Planned, plan
from .recording import record, record_all
from .session import Captured

__all__ = [
    "STATES", "CaptureError", "Captured", "Planned", "missing", "plan", "record", "record_all",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
