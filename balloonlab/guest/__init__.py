"""The guest's balloon driver, and who runs it."""

from .driver import OFFERED, REPORTING, BalloonDriver
from .operation import Operation
from .thread import run_in_thread

__all__ = ["OFFERED", "REPORTING", "BalloonDriver", "Operation", "run_in_thread"]
