"""The guest's balloon driver, and who runs it."""

from .driver import OFFERED, REPORTING, BalloonDriver
from .operation import Operation
from .thread import run_in_thread
from .vcpu import Exits, InVcpu

__all__ = [
    "OFFERED",
    "REPORTING",
    "BalloonDriver",
    "Exits",
    "InVcpu",
    "Operation",
    "run_in_thread",
]
