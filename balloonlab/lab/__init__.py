"""The laboratory: measure, compare, reproduce's cases; stages, provenance, storage."""

from .contents import verify
from .measure import Run, compare, measure
from .messages import discards, messages
from .posted import DEFECTS, smallest, strikes
from .published import published
from .report import findings, readable
from .reproduction import Reproduction
from .store import load
from .timeline import timeline

__all__ = [
    "DEFECTS",
    "Reproduction",
    "Run",
    "compare",
    "discards",
    "findings",
    "load",
    "measure",
    "messages",
    "published",
    "readable",
    "smallest",
    "strikes",
    "timeline",
    "verify",
]
