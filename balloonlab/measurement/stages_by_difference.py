"""Stages of a device that cannot be changed, separated by what it does not do.

QEMU logs no intervals. Just before each real run, in the same process, come `PAIRS` pairs of
round trips that discard nothing: an empty message, which names no page, and a full one, which QEMU
decodes and looks up, and then passes over. QEMU's processor time is read around the pairs and
around the real run.

================= ======================================================================
``allocate``      the driver's own interval, as in the lab (``release`` on deflate)
``send``/pack     the driver's own interval, as in the lab
``translate``     kicks x median difference within the pairs; with the decoding (c)
``discard``       QEMU's processor time in the real run, less kicks x that of a full message
                  of the pairs (d)
``send``/notify   what the real round trips took beyond both: the kick, QEMU's work for it,
                  both wake-ups, and whatever kept QEMU from running (b)
``remainder``     what of the wall time is in no interval of the driver's
================= ======================================================================

They sum to the wall time of the real run. A difference below the noise can come out negative,
and stays so. The address in QEMU's own memory is looked for in ``discard``, where it cannot be
separated from outside.

With medians of separate runs ``translate`` of equal repeats came out between -147 and 40 ms: a
wake-up takes 20 us or 70 us from one second to the next. The two messages of a pair see the same
machine, and processor time knows no wake-ups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..guest import Operation
from ..kernels import clock
from .stages import Times, own_stage, sum_intervals

PAIRS = 1000  # round trips with empty messages, and as many with full ones


@dataclass(frozen=True)
class Rehearsal:
    """The pairs of one repeat: round trips of both messages, QEMU's processor time for all."""

    empty_ns: npt.NDArray[np.int64]
    skipped_ns: npt.NDArray[np.int64]
    cpu_ns: int

    @classmethod
    def of(cls, log: clock.Log, cpu_ns: int) -> Rehearsal:
        """Read the pairs from the driver's log."""
        return cls(round_trips(log)[0::2], round_trips(log)[1::2], cpu_ns)

    @property
    def translate_ns(self) -> int:
        """Return how much longer a full message takes than an empty one."""
        return int(np.median(self.skipped_ns - self.empty_ns))

    @property
    def skipped_cpu_ns(self) -> int:
        """Return QEMU's time for a full message: half a pair, and half the difference."""
        return (self.cpu_ns // self.empty_ns.size + self.translate_ns) // 2

    def summary(self) -> dict[str, int]:
        """Summarize the pairs for the checks."""
        return {
            **quartiles("empty", self.empty_ns),
            **quartiles("skipped", self.skipped_ns),
            **quartiles("translate", self.skipped_ns - self.empty_ns),
            "skipped_cpu_ns": self.skipped_cpu_ns,
        }


def round_trips(log: clock.Log) -> npt.NDArray[np.int64]:
    """Return how long each round trip in a log took, in ns."""
    rows = log.rows[: int(log.length[0])]
    rows = rows[rows[:, 0] == clock.ROUND_TRIP]
    return rows[:, 2] - rows[:, 1]


def quartiles(name: str, times_ns: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return the quartiles of times as ``<name>_q1_ns`` to ``<name>_q3_ns``."""
    values = np.percentile(times_ns, [25, 50, 75])
    return {f"{name}_q{i}_ns": int(value) for i, value in enumerate(values, 1)}


def stage_times(
    operation: str, log: clock.Log, done: Operation, cpu_ns: int, rehearsal: Rehearsal
) -> Times:
    """Attribute the wall time of a real run to its stages, to which it sums up.

    `log` is the driver's of the real run alone, `cpu_ns` QEMU's processor time for it.
    """
    sums = sum_intervals(log)
    translate = done.n_kicks * rehearsal.translate_ns
    discard = cpu_ns - done.n_kicks * rehearsal.skipped_cpu_ns
    stage, interval = own_stage(operation)
    return {
        (stage, "all"): int(sums[interval]),
        ("send", "pack"): int(sums[clock.PACK]),
        ("send", "notify"): int(sums[clock.ROUND_TRIP]) - translate - discard,
        ("translate", "all"): translate,
        ("discard", "all"): discard,
        ("remainder", "all"): done.wall_ns - int(sums.sum()),
    }
