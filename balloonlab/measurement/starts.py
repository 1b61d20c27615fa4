"""Process starts, the unit of inference: which one this process is, and times by start.

Repeats within a process share its memory, its page tables and its luck; other starts differ more
than they do. A campaign measures each row of its plan in several processes (`balloonlab.campaign`);
their tables stand below each other in one run, and the column ``start`` tells them apart. Whatever
was measured in one process has ``start`` 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
import pandas as pd


class Start(NamedTuple):
    """A process start of a run that has several; ``run_id`` of a case are the same in all."""

    number: int
    run: str  # id of the whole run


_CURRENT: ContextVar[Start | None] = ContextVar("start", default=None)


def current() -> Start | None:
    """Return which start of a run this process is; None where it is a run by itself."""
    return _CURRENT.get()


@contextmanager
def as_start(number: int, run: str) -> Iterator[None]:
    """Measure as one of several starts of a run.

    Rows get its number. Only the first case of each way to inflate is warmed up (see
    `balloonlab.measurement.runner`): with one repeat per start, warm-ups would be half of the time.
    """
    token = _CURRENT.set(Start(number, run))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def unit_of(table: pd.DataFrame) -> str:
    """Return the column of the unit of inference: the start, of a single one the repeat."""
    return "start" if "start" in table and len(table["start"].unique()) > 1 else "repeat"


def kind_of(table: pd.DataFrame) -> str:
    """Return what intervals over a table are of: ``starts``, or ``repeats`` of a single one."""
    return f"{unit_of(table)}s"


def unit_times(frame: pd.DataFrame, by: Sequence[str] = ("run_id",)) -> pd.Series:
    """Return an array of ns for each case: the units over which statistics are taken.

    The median total of each start; of a case of a single start the totals of its repeats, which
    say nothing of other starts. A frame without ``start`` is of one. `by` are the columns that tell
    cases apart, and the index of what is returned.

    Examples
    --------
    >>> frame = pd.DataFrame({"run_id": "a", "start": [0, 0, 1], "repeat": [0, 1, 2]})
    >>> unit_times(frame.assign(time_ns=[1, 3, 7]))["a"].tolist()
    [2.0, 7.0]
    """
    frame = frame.assign(start=frame["start"].fillna(0) if "start" in frame else 0)
    by_repeat = frame.groupby([*by, "start", "repeat"], sort=False)["time_ns"].sum()
    by_start = by_repeat.groupby([*by, "start"], sort=False).median()
    several = by_start.groupby([*by], sort=False).transform("size") > 1
    repeats = by_repeat.groupby([*by], sort=False).apply(np.asarray)
    starts = by_start[several].groupby([*by], sort=False).apply(np.asarray)
    return repeats.where(~repeats.index.isin(starts.index), starts.reindex(repeats.index))


def case_times(frame: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """Return `unit_times` by columns that tell all cases apart; a ValueError where they do not."""
    n_cases = frame.groupby([*by])["run_id"].nunique()
    if len(n_cases) and n_cases.max() > 1:
        raise ValueError(
            f"frame must hold one case for each value of {', '.join(by)}, got several for "
            f"{n_cases.idxmax()}: choose the rows of one run first"
        )
    return unit_times(frame, by).sort_index()
