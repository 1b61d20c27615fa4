"""The floor under every inflation: one ``madvise`` over the same number of bytes."""

from __future__ import annotations

import mmap
import time
from typing import Any

import numpy as np
import psutil

from ..host import GuestRam
from ..kernels.discard import timed_discard
from .case import Case
from .stages import Times, Work

PROTOCOL, DISCARD = "madvise", "single"
"""What stands in the frame's columns for the floor: no message, one call."""


def discard_once(case: Case, ram: GuestRam) -> tuple[Work, Times, dict[str, Any]]:
    """Discard the first ``case.balloon_bytes`` of a guest's RAM in a single call.

    Nothing is allocated, sent or translated: only the host's discard is left, by the same
    compiled function that the device uses.
    """
    extents = np.array([[0, case.balloon_bytes]], np.int64)
    rss = psutil.Process().memory_info().rss
    begin = time.monotonic_ns()
    failed, discard_ns = timed_discard(
        ram.memory, extents, mmap.MADV_DONTNEED, np.zeros(2, np.int64)
    )
    wall_ns = time.monotonic_ns() - begin
    fall = rss - psutil.Process().memory_info().rss
    if failed:
        raise RuntimeError("one madvise over the balloon failed; nothing is reported")
    times = {("discard", "all"): discard_ns, ("remainder", "all"): wall_ns - discard_ns}
    return Work(n_discards=1), times, {"rss_fall_bytes": fall}
