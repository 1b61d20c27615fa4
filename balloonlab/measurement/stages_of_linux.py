"""Stages of a driver that logs nothing: the host's end is clocked, the guest's split by steps.

Linux's driver runs as it is; what it does between an answer and its next kick is known whole. How
much of it grows with the pages (taking them from the allocator, listing them, writing their
numbers) and how much does not (interrupts, wake-ups) is measured just before each real run, in the
same guest: steps of 1, 64, 128 and 256 pages, one message each, in random order, without discards.
The slope of the guest's time over the pages of a step is its time per page.

================= ======================================================================
``allocate``      pages x the slope: the allocator, the list and the message (a, and what of b
                  grows with pages); ``release`` on deflate
``send``/decode   the host's own interval, as in the lab
``send``/notify   from each answer to the next kick seen, less the above (b)
``translate``     the host's own interval, as in the lab (c)
``discard``       the host's own interval, as in the lab (d)
``remainder``     from the change of the target to the first kick, from the last answer to the
                  driver's word that it is done; of reporting the kernel's pauses of 2 s
================= ======================================================================

They sum to the wall time. Hinting and reporting take blocks of the largest orders, which no step
can vary: their allocation is in ``send``/notify.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernels import clock
from .stages import Times, own_stage
from .tables import STEPS

ROUNDS = 50  # of all steps
PAUSE_NS = 1_000_000_000  # longer than any turn of a driver: reporting waits 2 s between passes

_DRAWS = 1000


@dataclass(frozen=True)
class Slope:
    """The guest's time per page, with the 95 % interval of the bootstrap over rounds."""

    ns: float
    low_ns: float
    high_ns: float
    medians_ns: tuple[int, ...]  # of each of `STEPS`

    @classmethod
    def of(cls, steps_ns: npt.NDArray[np.float64]) -> Slope:
        """Fit a line through the medians of the steps; `steps_ns` has a row per round.

        Medians, since single steps are interrupted now and then.
        """
        rng = np.random.default_rng(0)
        drawn = steps_ns[rng.integers(0, len(steps_ns), (_DRAWS, len(steps_ns)))]
        slopes = np.polyfit(STEPS, np.median(drawn, axis=1).T, 1)[0]
        medians = np.median(steps_ns, axis=0)
        low, high = np.percentile(slopes, [2.5, 97.5])
        return cls(np.polyfit(STEPS, medians, 1)[0], low, high, tuple(map(int, medians)))

    def summary(self) -> dict[str, int]:
        """Summarize for the checks."""
        of_steps = zip(STEPS, self.medians_ns, strict=True)
        return {
            "page_ns": round(self.ns),
            "page_low_ns": round(self.low_ns),
            "page_high_ns": round(self.high_ns),
            **{f"step_{pages}_ns": time_ns for pages, time_ns in of_steps},
        }


def host_ns(rows: npt.NDArray[np.int64]) -> int:
    """Return how long the host worked, from rows of a log."""
    return int((rows[:, 2] - rows[:, 1]).sum())


def stage_times(
    operation: str,
    rows: npt.NDArray[np.int64],
    spans: list[tuple[int, int]],
    n_pages: int,
    slope: Slope | None,
) -> Times:
    """Attribute the wall time of an operation to its stages, to which it sums up.

    `rows` are those of the host's log; `spans` when each step of the operation began and ended.
    Without a `slope` the guest's part is not split.
    """
    sums = {
        stage: host_ns(rows[rows[:, 0] == stage])
        for stage in (clock.DECODE, clock.TRANSLATE, clock.DISCARD)
    }
    turns_ns = 0
    for begin, end in spans:
        own = rows[(rows[:, 1] >= begin) & (rows[:, 2] <= end)]
        turns = own[1:, 1] - own[:-1, 2]
        turns_ns += int(turns[turns < PAUSE_NS].sum())
    own_ns = round(slope.ns * n_pages) if slope else 0
    wall_ns = sum(end - begin for begin, end in spans)
    times = {
        ("send", "notify"): turns_ns - own_ns,
        ("send", "decode"): sums[clock.DECODE],
        ("translate", "all"): sums[clock.TRANSLATE],
        ("discard", "all"): sums[clock.DISCARD],
        ("remainder", "all"): wall_ns - turns_ns - sum(sums.values()),
    }
    return {(own_stage(operation)[0], "all"): own_ns, **times} if slope else times
