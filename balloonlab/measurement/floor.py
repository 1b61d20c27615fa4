"""The floor under every inflation: one ``madvise`` over the same number of bytes."""

from __future__ import annotations

import mmap
import time

import numpy as np
import psutil

from ..host import GuestRam
from ..kernels.discard import timed_discard
from .case import Case
from .stages import Times

PROTOCOL, DISCARD = "madvise", "single"
"""What stands in the frame's columns for the floor: no message, one call."""


def discard_once(case: Case, ram: GuestRam) -> tuple[Times, int]:
    """Discard the first ``case.balloon_bytes`` of RAM in one call; return times and fall of RSS.

    Nothing is allocated, sent or translated: only the host's discard is left, by the same
    compiled function that the device uses.
    """
    extents, cell = np.array([[0, case.balloon_bytes]], np.int64), np.zeros(2, np.int64)
    rss = psutil.Process().memory_info().rss
    begin = time.monotonic_ns()
    failed, discard_ns = timed_discard(ram.memory, extents, mmap.MADV_DONTNEED, cell)
    wall_ns = time.monotonic_ns() - begin
    fall_bytes = rss - psutil.Process().memory_info().rss
    if failed:
        raise RuntimeError("one madvise over the balloon failed; nothing is reported")
    return {("discard", "all"): discard_ns, ("remainder", "all"): wall_ns - discard_ns}, fall_bytes
