"""The laboratory: measure, compare, reproduce; stages, provenance, storage."""

from .measure import Run, compare, measure
from .published import published
from .report import findings
from .reproduction import Reproduction, reproduce
from .store import load

__all__ = [
    "Reproduction",
    "Run",
    "compare",
    "findings",
    "load",
    "measure",
    "published",
    "reproduce",
]
