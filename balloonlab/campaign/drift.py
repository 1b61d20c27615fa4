"""Drift: the reference case over a campaign, whose times should not depend on when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import theilslopes

from ..measurement.reading import load
from .start import Stored

COLUMNS = ["start", "utc_time", "protocol", "total_ms", "send_ms", "discard_ms"]
COLUMNS += ["steal_percent", "others"]

LEAST_FOR_TREND = 5


def drift_table(references: Mapping[int, Stored]) -> pd.DataFrame:
    """Return a row for each reference and protocol: medians of its repeats, and its noise."""
    rows = []
    for number, one in references.items():
        about = {"start": number, "utc_time": one.mark["utc_time"]}
        noise = {name: one.mark["noise"][name] for name in ("steal_percent", "others")}
        for protocol, frame in load(one.folder).frame.groupby("protocol", sort=False):
            by_stage = frame.groupby(["stage", "repeat"])["time_ns"].sum() / 1e6
            times = {f"{stage}_ms": round(float(by_stage[stage].median()), 4) for stage in _PARTS}
            totals = by_stage.groupby("repeat").sum()
            total = {"total_ms": round(float(totals.median()), 4)}
            rows.append(about | {"protocol": protocol} | total | times | noise)
    return pd.DataFrame(rows, columns=COLUMNS)


_PARTS = ("send", "discard")


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the spread of each protocol's total: n, median, least, greatest, and what it means.

    ``spread_percent`` is the standard deviation over the mean. ``percent_per_hour`` is the slope of
    a line through the medians of pairs (Theil and Sen), ``low`` and ``high`` its 95 % interval;
    None with fewer than five references.
    """
    found = []
    for protocol, rows in table.groupby("protocol", sort=False):
        ms = rows["total_ms"].to_numpy()
        row: dict[str, Any] = {"protocol": protocol, "n": int(ms.size)}
        row |= {"median_ms": float(np.median(ms)), "least_ms": ms.min(), "greatest_ms": ms.max()}
        row["spread_percent"] = 100 * float(ms.std(ddof=1) / ms.mean()) if ms.size > 1 else None
        trend = dict.fromkeys(("percent_per_hour", "low", "high"))
        if rows["utc_time"].nunique() == ms.size >= LEAST_FOR_TREND:
            times = pd.to_datetime(rows["utc_time"])
            hours = (times - times.iloc[0]).dt.total_seconds().to_numpy() / 3600
            slope = theilslopes(100 * ms / np.median(ms), hours)
            names = ("percent_per_hour", "low", "high")
            trend = dict(zip(names, (slope.slope, slope.low_slope, slope.high_slope), strict=True))
        found.append({name: _plain(value) for name, value in (row | trend).items()})
    return found


def _plain(value: Any) -> Any:
    return round(float(value), 4) if isinstance(value, float | np.floating) else value
