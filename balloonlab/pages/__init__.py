"""Which pages: synthetic patterns, the guest's page allocator, and how fragmented both are."""

from . import metrics, patterns
from .ageing import AgedGuest, age
from .buddy import Buddy
from .checks import as_pfns, check_in_ram

__all__ = ["AgedGuest", "Buddy", "age", "as_pfns", "check_in_ram", "metrics", "patterns"]
