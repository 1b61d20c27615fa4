"""The laboratory: measure, compare, reproduce's cases; stages, provenance, storage."""

from .measure import Run, compare, measure
from .published import published
from .report import findings, readable
from .reproduction import Reproduction
from .store import load

__all__ = [
    "Reproduction",
    "Run",
    "compare",
    "findings",
    "load",
    "measure",
    "published",
    "readable",
]
