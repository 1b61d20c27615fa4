"""The headline of 2016: its cases, the table beside the paper's numbers, and the report."""

from .report import findings, readable
from .reproduction import Reproduction

__all__ = ["Reproduction", "findings", "readable"]


def __dir__() -> list[str]:
    return __all__
