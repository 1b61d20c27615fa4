"""The laboratory: measure, compare, sweep, reproduce's cases; stages, provenance, storage."""

from .contents import verify
from .measure import Run, compare, measure, totals
from .messages import counts, discards, idle_counts, messages
from .posted import DEFECTS, smallest, strikes
from .published import published
from .report import findings, readable
from .reproduction import Reproduction
from .shipped import load_shipped
from .store import load, pool
from .sweep import sweep
from .timeline import timeline

__all__ = [
    "DEFECTS",
    "Reproduction",
    "Run",
    "compare",
    "counts",
    "discards",
    "findings",
    "idle_counts",
    "load",
    "load_shipped",
    "measure",
    "messages",
    "pool",
    "published",
    "readable",
    "smallest",
    "strikes",
    "sweep",
    "timeline",
    "totals",
    "verify",
]
