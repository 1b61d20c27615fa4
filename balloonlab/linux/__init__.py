"""Linux guests: their only program and its states, and User-Mode Linux, which runs anywhere."""

from .errors import GuestError
from .guest import LinuxGuest
from .states import NATIVE, STATES
from .uml import Uml, check_room, find, missing

__all__ = [
    "NATIVE",
    "STATES",
    "GuestError",
    "LinuxGuest",
    "Uml",
    "check_room",
    "find",
    "missing",
]


def __dir__() -> list[str]:
    return __all__
