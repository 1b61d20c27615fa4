"""Which pages: patterns, recorded traces, the guest's allocator, and how fragmented all are."""

from . import metrics, patterns, traces
from .ageing import AgedGuest, age
from .buddy import Buddy
from .checks import as_pfns, check_in_ram

__all__ = ["AgedGuest", "Buddy", "age", "as_pfns", "check_in_ram", "metrics", "patterns", "traces"]
