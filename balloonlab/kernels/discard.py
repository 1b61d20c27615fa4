"""What the host does with extents of guest memory, and how extents are made of a message."""

from __future__ import annotations

from enum import IntEnum

from .compile import kernel
from .syscalls import advise, now_ns


class Discard(IntEnum):
    """How a device applies a message."""

    PER_PAGE = 0
    """One call per page, as QEMU does."""
    PER_RANGE = 1
    """Adjacent ranges are merged into one call."""


@kernel
def discard(memory, extents, advice):
    """Call madvise once per extent (rows of offset and length in bytes); return how many failed."""
    failed = 0
    for i in range(extents.shape[0]):
        if advise(memory.base_address + extents[i, 0], extents[i, 1], advice) != 0:
            failed += 1
    return failed


@kernel
def timed_discard(memory, extents, advice, cell):
    """Discard extents as the device does; return how many failed and the ns it took."""
    begin_ns = now_ns(cell)
    failed = discard(memory, extents, advice)
    return failed, now_ns(cell) - begin_ns
