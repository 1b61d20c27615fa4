"""From interval logs to stage times, and to the rows of a repeat."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..guest import Operation
from ..kernels import clock
from .case import Case
from .starts import current
from .tables import COLUMNS

Times = dict[tuple[str, str], int]
"""(stage, part) to ns."""

STAGES = ("allocate", "release", "send", "translate", "discard", "remainder")
"""The paper's a to d (`release` for `allocate` on deflate), and what of the time is in none."""

TRIPS = clock.ROUND_TRIP, clock.KICK, clock.WAIT
"""What the guest's kicks take, as one or apart."""

WARM_UP = -1  # the repeat that is made before all others and dropped


@dataclass(frozen=True)
class Work:
    """How an operation went, and what it took besides time."""

    negotiated_protocol: str = ""
    n_bitmaps: int = 0
    n_kicks: int = 0
    wire_bytes: int = 0
    n_records: int = 0
    n_translations: int = 0
    n_discards: int = 0

    @classmethod
    def of(cls, steps: list[Operation], n_translations: int, n_discards: int) -> Work:
        """Sum up the driver's steps, and what the device did for all of them."""
        counts = [sum(step.n_kicks for step in steps), sum(step.wire_bytes for step in steps)]
        counts += [sum(step.n_records for step in steps), n_translations, n_discards]
        return cls(steps[0].negotiated_protocol, steps[0].n_bitmaps, *counts)


@dataclass(frozen=True)
class Repeat:
    """One measured repeat: its rows, and what memory looked like around it."""

    frame: pd.DataFrame
    check: dict[str, Any]

    @classmethod
    def of(
        cls, case: Case, run_id: str, number: int, work: Work, times: Times, **check: Any
    ) -> Repeat:
        """Return a repeat: a row per stage part (`COLUMNS`), and its row of the checks."""
        start = current()
        common = {"run_id": run_id, **case.described(), "repeat": number, **asdict(work)}
        common |= {"start": start.number if start else 0, "n_pages": case.balloon_pages}
        rows = [
            {**common, "stage": stage, "part": part, "time_ns": time_ns}
            for (stage, part), time_ns in times.items()
        ]
        kept = ("run_id", "protocol", "operation", "touched", "start", "repeat")
        whole = {name: common[name] for name in kept} | {"wall_ns": sum(times.values())}
        return cls(pd.DataFrame(rows, columns=COLUMNS), whole | check)


def sum_intervals(log: clock.Log) -> npt.NDArray[np.int64]:
    """Return the sums of a log: ns by kind of interval (`balloonlab.kernels.clock`)."""
    length = int(log.length[0])
    if length > log.rows.shape[0]:
        raise RuntimeError(
            f"the stage log overflowed: {length} intervals for {log.rows.shape[0]} rows; "
            "this is a bug in balloonlab, please report the case"
        )
    rows = log.rows[:length]
    sums = np.zeros(clock.N_KINDS, np.int64)
    np.add.at(sums, rows[:, 0], rows[:, 2] - rows[:, 1])
    return sums


def own_stage(operation: str) -> tuple[str, int]:
    """Return the stage in which the guest takes or frees pages, and its kind of interval."""
    deflating = operation == "deflate"
    return ("release", clock.RELEASE) if deflating else ("allocate", clock.ALLOCATE)


def stage_times(operation: str, guest: clock.Log, host: clock.Log, wall_ns: int) -> Times:
    """Attribute the time of an operation to its stages, from its begin until both ends are done.

    The guest's own intervals count whole. While it waits, and after its end, time is what the host
    does then; what the host did beside the guest's own work takes no time. What remains of the
    round trips, and of the time until the host's last interval, is notification: kick, wake-up of
    the host, call, wake-up of the guest, and a host's patience with messages that it collects. What
    no interval covers is the remainder. `wall_ns` is the guest's own time.
    """
    own = sum_intervals(guest)
    rows, device = guest.rows[: guest.length[0]], host.rows[: host.length[0]]
    end = int(rows[-1, 2])
    last = max(end, int(device[-1, 2])) if len(device) else end
    waiting = np.isin(rows[:, 0], (clock.ROUND_TRIP, clock.WAIT))
    waits = np.vstack([rows[waiting, 1:], [(end, last)]])
    shares = np.zeros(clock.N_KINDS, np.int64)
    np.add.at(shares, device[:, 0], _overlap(waits, device[:, 1:]))
    stage, interval = own_stage(operation)
    return {
        (stage, "all"): int(own[interval]),
        ("send", "pack"): int(own[clock.PACK]),
        ("send", "notify"): int(own[list(TRIPS)].sum()) + last - end - int(shares.sum()),
        ("send", "decode"): int(shares[clock.DECODE]),
        ("translate", "all"): int(shares[clock.TRANSLATE]),
        ("discard", "all"): int(shares[clock.DISCARD]),
        ("remainder", "all"): wall_ns - int(own.sum()),
    }


def _overlap(
    spans: npt.NDArray[np.int64], intervals: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return how much of each interval lies in spans, which follow each other (begin, end)."""
    before = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])

    def covered(moments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        n = np.searchsorted(spans[:, 0], moments, side="right")
        begun = np.maximum(n - 1, 0)
        into = np.minimum(moments, spans[begun, 1]) - spans[begun, 0]
        return np.where(n > 0, before[begun] + into, 0)

    return covered(intervals[:, 1]) - covered(intervals[:, 0])
