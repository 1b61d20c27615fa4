"""What a measurement gave, and its totals."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd

from ..sizes import format_size
from .tables import EARLIER, SKIPPED_COLUMNS, as_frame, empty

CASE = SKIPPED_COLUMNS[1:-2]
"""Columns that say which case a row is of."""


@dataclass(frozen=True, repr=False)
class Run:
    """What a measurement gave; shows itself as a line per case.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row for each case, repeat, stage and part. ``time_ns`` of a repeat's rows sums to its
        wall time. `balloonlab.measurement.columns` describes the columns of all tables.
    meta : dict
        Command, arguments, machine, versions (QEMU's too, where it was the host), commit, digest
        of the kernels, UTC time.
    checks : pandas.DataFrame
        One row per repeat: what memory looked like around it.
    skipped : pandas.DataFrame
        One row per case that could not be measured, with the ``reason``; none of it is in `frame`.
    """

    frame: pd.DataFrame
    meta: dict[str, Any]
    checks: pd.DataFrame
    skipped: pd.DataFrame = field(default_factory=lambda: empty(SKIPPED_COLUMNS))

    def measured(self) -> Run:
        """Return the run without the repeats that a case made before it failed."""
        frame, checks = (
            table[~table["run_id"].isin(self.skipped["run_id"])].reset_index(drop=True)
            for table in (self.frame, self.checks)
        )
        return Run(frame, self.meta, checks, self.skipped)

    def __repr__(self) -> str:
        table = "" if self.frame.empty else f"\n{readable(totals(self)).to_string(index=False)}"
        return f"<Run: {self._headline()}>{table}"

    def _repr_html_(self) -> str:
        table = "" if self.frame.empty else readable(totals(self)).to_html(index=False)
        return f"<p>{escape(self._headline())}</p>{table}"

    def _headline(self) -> str:
        n_cases, meta = self.frame["run_id"].nunique(), self.meta
        said = [
            f"{n_cases} case{'s' * (n_cases != 1)} measured",
            len(self.skipped) and f"{len(self.skipped)} left out",
            *constants(self.frame),
            meta.get("qemu") and f"QEMU {meta['qemu']}",
            *(meta.get(name) for name in ("cpu_model", "kernel")),
        ]
        return ", ".join(str(part) for part in said if part)


def _text(name: str, value: Any) -> str:
    """Return a value of a column as people write it."""
    if name.endswith("_bytes"):
        return format_size(int(value))
    if isinstance(value, bool) or name in ("touched", "thp"):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def constants(frame: pd.DataFrame) -> list[str]:
    """Return what all cases of a frame agree in, as ``name value``; sizes and words, no numbers."""
    names = [name for name in CASE if name in frame.columns and len(frame[name].unique()) == 1]
    usual = {"order": "as is", "wait": "block", "steps": 1, "thp": False} | EARLIER
    return [
        f"{name.removesuffix('_bytes')} {_text(name, frame[name].iloc[0])}"
        for name in names
        if name not in usual or frame[name].iloc[0] != usual[name]
    ]


def differing(frame: pd.DataFrame) -> list[str]:
    """Return the columns of the case in which not all rows of a frame are alike.

    ``negotiated_protocol`` and ``n_bitmaps`` where a protocol has several.
    """
    differ = [name for name in CASE if name in frame.columns and len(frame[name].unique()) > 1]
    for name in ("negotiated_protocol", "n_bitmaps"):
        if len(frame.drop_duplicates(["protocol", name])) > len(frame["protocol"].unique()):
            differ.append(name)
    return differ


def repeat_totals(frame: pd.DataFrame) -> pd.Series:
    """Return the total of each (run_id, repeat) in ns."""
    return frame.groupby(["run_id", "repeat"], sort=False)["time_ns"].sum()


def totals(data: Run | pd.DataFrame) -> pd.DataFrame:
    """Return a row per case: what the cases differ in, and the median total.

    Parameters
    ----------
    data : Run or pandas.DataFrame
        A run, or its tidy frame; anything else is a TypeError, a missing column a ValueError.

    Returns
    -------
    pandas.DataFrame
        The columns of the case in which not all rows are alike (``negotiated_protocol`` and
        ``n_bitmaps`` where a protocol has several), ``repeats``, and the median, least and greatest
        total of a repeat as ``median_ms``, ``min_ms``, ``max_ms``.

    Examples
    --------
    >>> import balloonlab as bl
    >>> run = bl.measure(memory="8MiB", repeats=3, progress=False)
    >>> totals(run).columns.tolist()
    ['repeats', 'median_ms', 'min_ms', 'max_ms']
    """
    frame = as_frame(data)
    needed = ("run_id", "repeat", "time_ns", "protocol", "negotiated_protocol", "n_bitmaps")
    if missing := [name for name in needed if name not in frame]:
        rule = "data must be a run or its tidy frame"
        raise ValueError(f"{rule}, got one without {', '.join(missing)}: pass balloonlab.load(...)")
    differ = differing(frame)
    by_case = (repeat_totals(frame) / 1e6).groupby("run_id", sort=False)
    found = by_case.agg(repeats="size", median_ms="median", min_ms="min", max_ms="max")
    table = frame.drop_duplicates("run_id").set_index("run_id")[differ].join(found)
    return table.sort_values(differ or "median_ms", ignore_index=True)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of totals or ratios as text: sizes with units, times to four digits."""
    texts = {str(name): [_text(str(name), value) for value in table[name]] for name in table}
    return pd.DataFrame({name.removesuffix("_bytes"): cells for name, cells in texts.items()})
