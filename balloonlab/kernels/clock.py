"""The stage clock: intervals on one monotonic clock, logged by both sides.

Guest and host each write their own log, one row per stage and batch, so no
cache line is shared and no sum is taken in timed code. `balloonlab.measurement.stages`
turns the two logs into stage times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel
from .syscalls import now_ns
from .tsc import Tsc

ALLOCATE, PACK, ROUND_TRIP, DECODE, TRANSLATE, DISCARD, RELEASE, KICK, WAIT = range(9)
"""Kinds of intervals. A round trip is a kick and its wait in one; where several messages may be in
flight they are apart."""

N_KINDS = 9


class Log(NamedTuple):
    """Rows of (stage, begin_ns, end_ns), and how many were written."""

    rows: np.ndarray  # int64, shape (capacity, 3)
    length: np.ndarray  # int64, shape (1,); beyond capacity rows are counted, not kept
    cell: np.ndarray | Tsc  # the clock (`balloonlab.kernels.syscalls.now_ns`)

    @classmethod
    def empty(cls, capacity: int, clock: Tsc | None = None) -> Log:
        """Allocate a log; the rows are written once so that timed code meets no page fault."""
        cell = np.zeros(2, np.int64) if clock is None else clock
        return cls(np.full((capacity, 3), -1, np.int64), np.zeros(1, np.int64), cell)

    def clear(self) -> None:
        """Forget every interval; the side that writes must be idle."""
        self.length[0] = 0


@kernel
def record(log, stage, begin_ns):
    """Close the interval of `stage` that began at `begin_ns`; return its end."""
    end_ns = now_ns(log.cell)
    row = log.length[0]
    if row < log.rows.shape[0]:
        log.rows[row, 0] = stage
        log.rows[row, 1] = begin_ns
        log.rows[row, 2] = end_ns
    log.length[0] = row + 1
    return end_ns
