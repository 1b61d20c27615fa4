"""Numbers of the way to the floor: the ladder, host policies, messages of other sizes."""

from __future__ import annotations

import re

import pandas as pd

from .. import datasets
from ..ladder import policy_times, rung_times
from ..measurement.reading import load, pool
from .number import Numbers, number


def ladder_frame() -> pd.DataFrame:
    """Return the frame of all starts of the shipped ladder."""
    return pool(datasets.folders("ladder")).frame


def _data() -> str:
    return datasets.folders("ladder")[0].name


def _short(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def _ladder() -> Numbers:
    for row in rung_times(ladder_frame()).itertuples():
        name = f"ladder_{_short(row.scenario)}_{_short(row.rung)}_{row.source}"
        about = f"1 GiB, {row.scenario}, {row.rung}"
        yield number(row.source, _data(), f"{name}_ns", row.page_ns, "ns", about, "per page")
        if row.interval:
            for end in ("", "_low", "_high"):
                gain, means = getattr(row, f"gain{end}"), "over a madvise per page"
                yield number(row.source, _data(), f"{name}_gain{end}", gain, "times", about, means)


def _policies() -> Numbers:
    for row in policy_times(load(datasets.path("policies")).frame).itertuples():
        pattern = "trace" if row.pattern.startswith("trace:") else _short(row.pattern)
        name, about = f"policy_{pattern}_{_short(row.policy)}_{row.source}", f"pfn, {row.pattern}"
        yield number(row.source, "policies", f"{name}_ns", row.page_ns, "ns", about, row.policy)
        means = f"{row.policy} over a madvise per page"
        yield number(row.source, "policies", f"{name}_gain", row.gain, "times", about, means)


def _allocation() -> Numbers:
    """Compare what the guest takes to get its pages in chunks, and as single ones."""
    frame = ladder_frame()
    rows = frame[(frame["protocol"] == "bitmap-v4") & (frame["pattern"] == "idle")]
    rows = rows[rows["stage"].eq("allocate") & (rows["source"] == "lab") & ~rows["touched"]]
    ns = rows["time_ns"] / rows["n_pages"]
    by_way = ns.groupby(rows["allocation"]).median()
    for way, value in by_way.items():
        name, about = f"allocate_{way}_ns", "to allocate a page of an idle guest"
        yield number("lab", _data(), name, value, "ns", about, f"allocation={way}")
    gain = by_way["page"] / by_way["chunk"]
    yield number("lab", _data(), "allocate_gain", gain, "times", "page over chunk, idle")


def _threads() -> Numbers:
    frame = load(datasets.path("threads")).frame
    totals = frame.groupby(["discard", "threads", "repeat"])["time_ns"].sum()
    ms = totals.groupby(level=["discard", "threads"]).median()
    for discard in frame["discard"].unique():
        ratio = ms[discard, 2] / ms[discard, 1]
        name, about = f"threads_{_short(discard)}_ratio", f"pfn by {discard}, two threads over one"
        yield number("lab", "threads", name, ratio, "times", about)


PARTS = (_ladder, _policies, _allocation, _threads)
