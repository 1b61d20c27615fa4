"""The floor under every inflation: one ``madvise`` over the same number of bytes."""

from __future__ import annotations

import mmap
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psutil

from ..host import GuestRam
from ..kernels.device import timed_discard
from .case import Case
from .measure import Repeat, check_facilities
from .progress import Progress
from .resources import check_available
from .stages import Work, make_frame

PROTOCOL, DISCARD = "madvise", "single"
"""What stands in the frame's columns for the floor: no message, one call."""


def run_floor(case: Case, progress: Progress) -> Iterator[Repeat]:
    """Discard the first ``case.balloon_bytes`` of a guest's RAM in a single call.

    Nothing is allocated, told or translated: only the host's discard is left, by
    the same compiled function that the device uses.
    """
    check_facilities()
    check_available(case.memory_bytes, case.touched)
    run_id = uuid.uuid4().hex[:12]
    ram = GuestRam(case.memory_pages, case.thp)
    extents = np.array([[0, case.balloon_bytes]], np.int64)
    floor = replace(case, protocol=PROTOCOL, discard=DISCARD)
    for number in range(-1, case.repeats):
        name = "warm-up" if number < 0 else f"repeat {number + 1} of {case.repeats}"
        progress.describe(f"one madvise: {name}")
        if case.touched:
            with progress.bytes("touching memory", case.memory_bytes) as advance:
                ram.touch(advance)
        before = psutil.Process().memory_info().rss
        begin = time.monotonic_ns()
        failed, discard_ns = timed_discard(ram.memory, extents, mmap.MADV_DONTNEED)
        wall_ns = time.monotonic_ns() - begin
        fall = before - psutil.Process().memory_info().rss
        left = int(ram.resident()[: case.balloon_pages].sum())
        if failed or left:
            raise RuntimeError(f"one madvise over the balloon failed: {left} pages still backed")
        progress.advance()
        if number >= 0:
            times = {("discard", "all"): discard_ns, ("remainder", "all"): wall_ns - discard_ns}
            check = {
                "run_id": run_id,
                "protocol": PROTOCOL,
                "touched": case.touched,
                "repeat": number,
                "rss_fall_bytes": fall,
                "balloon_pages": case.balloon_pages,
            }
            yield Repeat(make_frame(floor, run_id, number, Work(n_discards=1), times), check)
