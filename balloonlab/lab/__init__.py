"""The laboratory: measure, compare, sweep, reproduce's cases; stages, provenance, storage."""

from ..shipped import shipped
from .contents import verify
from .measure import Run, compare, measure, totals
from .messages import counts, discards, idle_counts, messages
from .posted import DEFECTS, smallest, strikes
from .published import published
from .report import findings, readable
from .reproduction import Reproduction
from .store import load, pool
from .sweep import sweep
from .timeline import load_timeline, timeline

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
    "load_timeline",
    "measure",
    "messages",
    "pool",
    "published",
    "readable",
    "shipped",
    "smallest",
    "strikes",
    "sweep",
    "timeline",
    "totals",
    "verify",
]
