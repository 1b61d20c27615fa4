"""Ratios of totals, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import pandas as pd

from .estimates import Estimate, estimate
from .run import Run, differing
from .starts import kind_of, unit_times
from .tables import as_frame

RATIO_COLUMNS = ("ratio", "low", "high", "n", "interval")


def ratios(
    data: Run | pd.DataFrame, over: str = "pfn", by: str | Iterable[str] | None = None
) -> pd.DataFrame:
    """Divide the median total of each case by that of another protocol's.

    Parameters
    ----------
    data : Run or pandas.DataFrame
        A run, or its tidy frame.
    over : str
        Protocol of the cases that the others are divided by. Its own rows are left out.
    by : str or iterable of str, optional
        Columns in which the two cases of a ratio agree; by default all columns of the case that
        differ in the frame, except ``protocol`` and what follows from it.

    Returns
    -------
    pandas.DataFrame
        Columns `by`, ``protocol``, ``discard`` where it differs, ``ratio`` (below 1: faster than
        `over`), ``low`` and ``high``, ``n`` (process starts, or repeats of a single one; the fewer
        of both cases) and ``interval``: ``95 %`` of the bootstrap over the starts of both, or with
        fewer than five, or with repeats, ``range``: the least and greatest ratio of any two.

    Raises
    ------
    TypeError, ValueError
        `data` is no run; no case of `over`, or several that agree in `by`.

    Examples
    --------
    >>> import balloonlab as bl
    >>> both = [{"protocol": "pfn"}, {"protocol": "bitmap-v4"}]
    >>> run = bl.compare(both, memory="8MiB", repeats=2, progress=False)
    >>> ratios(run)[["protocol", "n", "interval"]]
        protocol  n interval
    0  bitmap-v4  2    range
    """
    frame = as_frame(data)
    by = [by] if isinstance(by, str) else _default_by(frame) if by is None else list(by)
    if missing := [name for name in by if name not in frame.columns]:
        raise ValueError(f"by must be columns of the frame, got {', '.join(missing)}")
    if over not in set(frame["protocol"]):
        known = ", ".join(frame["protocol"].unique())
        raise ValueError(f"over must be a protocol of the frame ({known}), got {over!r}")
    own = [name for name in differing(frame) if name not in (*by, "protocol")]
    shown = [*by, "protocol", *own]
    by_case, kind = unit_times(frame), kind_of(frame)
    cases = frame.drop_duplicates("run_id")
    rows = []
    for _, group in cases.groupby(by, sort=False) if by else [((), cases)]:
        base = group[group["protocol"] == over]
        if len(base) > 1:
            raise ValueError(
                f"over={over!r} must be one case for each value of by={by}, got {len(base)}: "
                f"they differ in {', '.join(differing(base)) or 'nothing but the run'}"
            )
        for _, case in group[group["protocol"] != over].iterrows() if len(base) else ():
            pair = by_case[case["run_id"]], by_case[base["run_id"].iloc[0]]
            found, n = ratio_of(*pair, kind), min(one.size for one in pair)
            interval = found.interval.partition(" of ")[0]
            rows.append([*case[shown], *found[:3], n, interval])
    table = pd.DataFrame(rows, columns=[*shown, *RATIO_COLUMNS])
    return table.sort_values(shown, ignore_index=True)


def _default_by(frame: pd.DataFrame) -> list[str]:
    follows = {"protocol", "negotiated_protocol", "n_bitmaps"}
    if frame[["protocol", "discard"]].drop_duplicates()["protocol"].is_unique:
        follows.add("discard")
    return [name for name in differing(frame) if name not in follows]


def ratio_of(top: npt.NDArray[Any], bottom: npt.NDArray[Any], kind: str = "starts") -> Estimate:
    """Return the ratio of the medians of two cases' starts (or repeats), as `ratios` has it."""
    return estimate([top, bottom], lambda a, b: a / b, kind)
