"""From interval logs to stage times, and the columns of the tidy frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..kernels import clock
from .case import Case

COLUMNS = [
    *(
        "run_id",
        "source",
        "protocol",
        "negotiated_protocol",
        "n_bitmaps",
        "discard",
        "pattern",
        "order",
    ),
    *("operation", "touched", "thp", "wait", "steps", "memory_bytes", "balloon_bytes", "repeat"),
    *("stage", "part", "time_ns", "n_pages"),
    *("n_kicks", "wire_bytes", "n_records", "n_translations", "n_discards"),
]
"""One row a stage part. Within a repeat, ``time_ns`` of all rows sums to the wall time;
the counts stand for the whole operation and are the same in each of its rows. Units are in
the names: ``_ns``, ``_bytes``, and ``n_`` for counts."""

CHECK_COLUMNS = [
    *("run_id", "protocol", "operation", "touched", "repeat", "rss_fall_bytes"),
    *("resident_pages_before", "huge_bytes_before"),
    *("resident_pages_after", "balloon_pages", "lost_pages"),
]
"""One row a repeat: what memory looked like around it."""

QEMU_CHECK_COLUMNS = [
    *("block_order", "empty_q1_ns", "empty_q2_ns", "empty_q3_ns"),
    *("skipped_q1_ns", "skipped_q2_ns", "skipped_q3_ns"),
    *("translate_q1_ns", "translate_q2_ns", "translate_q3_ns"),
    *("real_q1_ns", "real_q2_ns", "real_q3_ns", "skipped_cpu_ns", "real_cpu_ns"),
]
"""What repeats at QEMU's device tell besides; see `balloonlab.measurement.stages_by_difference`."""

SKIPPED_COLUMNS = [
    *("run_id", "source", "protocol", "discard", "pattern", "order", "operation", "touched"),
    *("thp", "wait", "steps", "bitmaps", "memory_bytes", "balloon_bytes", "outcome", "reason"),
]
"""One row a case of which there is no result; ``outcome`` is ``skipped`` or ``failed``."""

DTYPES: defaultdict[str, type] = defaultdict(
    lambda: np.int64,
    dict.fromkeys(("touched", "thp"), bool)
    | dict.fromkeys(
        ("run_id", "source", "protocol", "negotiated_protocol", "discard", "pattern", "order"), str
    )
    | dict.fromkeys(("operation", "wait", "stage", "part", "outcome", "reason"), str),
)
"""Types of columns. Left to pandas, a ``run_id`` such as ``92e710452837`` is read as infinity."""

STAGES = ("allocate", "release", "send", "translate", "discard", "remainder")
"""The paper's stages a to d (`release` takes the place of `allocate` on deflate), and what of
the wall time is in none of them."""


def check_columns(hosts: Iterable[str]) -> list[str]:
    """List the columns of the checks of cases on these hosts."""
    return CHECK_COLUMNS + (QEMU_CHECK_COLUMNS if "qemu" in hosts else [])


def empty(columns: Iterable[str]) -> pd.DataFrame:
    """Make a table without rows, its columns of the right types."""
    return pd.DataFrame({name: pd.Series(dtype=DTYPES[name]) for name in columns})


def stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put tables with the same columns below each other."""
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True)


def sum_intervals(log: clock.Log) -> npt.NDArray[np.int64]:
    """Sum up a log: ns by kind of interval (`balloonlab.kernels.clock`)."""
    length = int(log.length[0])
    if length > log.rows.shape[0]:
        raise RuntimeError(
            f"the stage log overflowed: {length} intervals for {log.rows.shape[0]} rows; "
            "this is a bug in balloonlab, please report the case"
        )
    rows = log.rows[:length]
    sums = np.zeros(clock.RELEASE + 1, np.int64)
    np.add.at(sums, rows[:, 0], rows[:, 2] - rows[:, 1])
    return sums


def stage_times(
    operation: str, guest: clock.Log, host: clock.Log, wall_ns: int
) -> dict[tuple[str, str], int]:
    """Attribute the wall time of an operation to its stages.

    The guest waits while the host works, so the two logs form one sequence: what
    the round trips took beyond the host's own intervals is notification (kick,
    wake-up of the host, call, wake-up of the guest). What no interval covers is
    the remainder.

    Parameters
    ----------
    operation : {"inflate", "deflate"}
    guest, host : balloonlab.kernels.clock.Log
    wall_ns : int
        The operation from its first to its last instant.

    Returns
    -------
    dict
        (stage, part) to ns; the values sum to `wall_ns`.
    """
    own, device = sum_intervals(guest), sum_intervals(host)
    served = int(device.sum())
    stage, interval = ("allocate", clock.ALLOCATE)
    if operation == "deflate":
        stage, interval = ("release", clock.RELEASE)
    return {
        (stage, "all"): int(own[interval]),
        ("send", "pack"): int(own[clock.PACK]),
        ("send", "notify"): int(own[clock.ROUND_TRIP]) - served,
        ("send", "decode"): int(device[clock.DECODE]),
        ("translate", "all"): int(device[clock.TRANSLATE]),
        ("discard", "all"): int(device[clock.DISCARD]),
        ("remainder", "all"): wall_ns - int(own.sum()),
    }


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


def describe(case: Case, run_id: str) -> dict[str, Any]:
    """Give the columns that say which case it is."""
    return {
        "run_id": run_id,
        "source": case.host,
        "protocol": case.protocol,
        "discard": case.discard,
        "pattern": case.pattern,
        "order": case.order,
        "operation": case.operation,
        "touched": case.touched,
        "thp": case.thp,
        "wait": case.wait,
        "steps": case.steps,
        "memory_bytes": case.memory_bytes,
        "balloon_bytes": case.balloon_bytes,
    }


def make_frame(
    case: Case, run_id: str, repeat: int, work: Work, times: dict[tuple[str, str], int]
) -> pd.DataFrame:
    """Build the rows of one repeat, one a stage part; columns are `COLUMNS`."""
    common = {
        **describe(case, run_id),
        "repeat": repeat,
        "n_pages": case.balloon_pages,
        **asdict(work),
    }
    rows = [
        {**common, "stage": stage, "part": part, "time_ns": time_ns}
        for (stage, part), time_ns in times.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
