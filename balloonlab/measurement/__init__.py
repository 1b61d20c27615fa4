"""Measuring: a case, its repeats on a guest and a host, tidy frames, and their storage."""

from .api import Run, compare, measure, totals
from .store import load, pool
from .sweeps import sweep
from .timelines import load_timeline, timeline

__all__ = [
    "Run",
    "compare",
    "load",
    "load_timeline",
    "measure",
    "pool",
    "sweep",
    "timeline",
    "totals",
]
