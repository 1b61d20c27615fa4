"""The laboratory: measure, compare, reproduce; stages, provenance, storage."""

from .measure import Run, compare, measure
from .published import published
from .reproduction import Reproduction, reproduce
from .store import load

__all__ = ["Reproduction", "Run", "compare", "load", "measure", "published", "reproduce"]
