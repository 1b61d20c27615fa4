"""The headline of 2016: its cases, the table beside the paper's numbers, and the report."""

from .gains import gains
from .inflations import inflations
from .report import findings, readable
from .reproduction import Reproduction
from .since_2016 import since_2016

__all__ = ["Reproduction", "findings", "gains", "inflations", "readable", "since_2016"]


def __dir__() -> list[str]:
    return __all__
