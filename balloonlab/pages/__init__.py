"""Which pages: synthetic patterns and the guest's page allocator."""

from . import patterns
from .buddy import Buddy
from .checks import as_pfns, check_in_ram

__all__ = ["Buddy", "as_pfns", "check_in_ram", "patterns"]
