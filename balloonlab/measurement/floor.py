"""The floor under every inflation: one ``madvise`` over the same number of bytes."""

from __future__ import annotations

import mmap
import time
from dataclasses import replace

import numpy as np
import psutil

from ..host import GuestRam
from ..kernels.discard import timed_discard
from .case import Case
from .runner import Repeat, Trial, check_balloon, check_before
from .stages import Work, make_frame

PROTOCOL, DISCARD = "madvise", "single"
"""What stands in the frame's columns for the floor: no message, one call."""


def floor(case: Case) -> Trial:
    """Make the trial that is the floor under a case's inflation."""
    return Trial(replace(case, protocol=PROTOCOL, discard=DISCARD), discard_once)


def discard_once(case: Case, ram: GuestRam, run_id: str, number: int) -> Repeat:
    """Discard the first ``case.balloon_bytes`` of a guest's RAM in a single call.

    Nothing is allocated, told or translated: only the host's discard is left, by
    the same compiled function that the device uses.
    """
    extents = np.array([[0, case.balloon_bytes]], np.int64)
    before = check_before(case, ram)
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
    check = {
        "run_id": run_id,
        "protocol": case.protocol,
        "operation": case.operation,
        "touched": case.touched,
        "repeat": number,
        "rss_fall_bytes": fall,
        **before,
        **check_balloon(case, ram, np.arange(case.memory_pages) < case.balloon_pages),
    }
    return Repeat(make_frame(case, run_id, number, Work(n_discards=1), times), check)
