"""Numbers of the headline: the paper's, the lab's, QEMU's; of what was checked; of the drift."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .. import datasets
from ..datasets import published
from ..measurement.estimates import Estimate
from ..measurement.on_lab import FLOOR
from ..measurement.reading import load
from ..measurement.starts import unit_times
from ..reproduction.reproduction import Reproduction
from ..sizes import GIB
from .number import SHORT, STATES, Numbers, Starts, estimated, number

CASE = ["touched", "protocol"]

_paper, _lab = partial(number, "paper", "published.csv"), partial(number, "lab")


def _published() -> Numbers:
    table = published()
    total = table.groupby("protocol")["time_ms"].sum()
    for protocol in ("pfn", "bitmap-v4"):
        name = f"paper_{SHORT[protocol]}_ms"
        yield _paper(name, total[protocol], "ms", f"7 of 8 GiB idle, {protocol}")
    saved = 100 * (1 - total["bitmap-v4"] / total["pfn"])
    yield _paper("paper_saved_percent", saved, "%", "of the time of pfn, by bitmap-v4")
    for row in table[table["protocol"] == "pfn"].itertuples():
        share = 100 * row.time_ms / total["pfn"]
        yield _paper(f"paper_{row.stage}_percent", share, "%", f"{row.stage} of pfn")


def _reproduction(source: str, data: str, bulk: str) -> Numbers:
    """Totals of the headline's cases, the shares of the stages of ``pfn``, the gain."""
    result = Reproduction.load(datasets.path(data))
    frame = result.frame
    starts = Starts(frame)
    whole = starts.times(CASE)
    pages = frame.groupby(CASE)["n_pages"].first()
    measured = partial(estimated, source, data)
    for touched, state in STATES.items():
        name, case = f"{data}_{state}", f"7 of 8 GiB, {state}"
        for protocol, short in SHORT.items():
            if (touched, protocol) in whole:
                ns = whole[touched, protocol]
                yield measured(f"{name}_{short}_ms", starts.middle(ns, 1e-6), "ms", case, protocol)
        for stage, share in result.shares("pfn", touched).items():
            about = f"{stage} of pfn"
            yield measured(f"{name}_{stage}_percent", share, "%", case, about)
        ratio = starts.over(*(whole[touched, one] / pages[touched, one] for one in ("pfn", bulk)))
        yield measured(f"{name}_ratio", ratio, "times", case, f"pfn over {bulk}")
    if (True, FLOOR) in whole:
        ratio = starts.over(whole[True, "bitmap-v4"], whole[True, FLOOR])
        yield measured(f"{data}_over_floor", ratio, "times", "bitmap-v4 over one madvise")


def _drivers() -> Numbers:
    """Linux's driver and the lab's on the pages of the same two guests, ns per page."""
    frame = load(datasets.path("drivers")).frame
    by = ["touched", "source"]
    n_guests = frame.groupby(by)["run_id"].transform("nunique")
    frame["time_ns"] = frame["time_ns"] / frame["n_pages"] / n_guests
    starts = Starts(frame)
    for (touched, source, stage), ns in unit_times(frame, [*by, "stage"]).items():
        name, about = f"drivers_{STATES[touched]}_{stage}_{source}_ns", "2 GiB, idle and tmpfs50"
        means = f"{stage} per page, pfn", f"{about}, mean of both"
        yield estimated(source, "drivers", name, starts.middle(ns), "ns", *means)


def _reliability() -> Numbers:
    rows = pd.read_csv(datasets.path("reliability/fuzz.csv"))
    counts = rows.groupby("finding")["count"].sum()
    for name, finding in (
        ("cases", "cases"),
        ("canaries_changed", "canary words changed"),
        ("discards_outside", "discards outside RAM"),
    ):
        yield _lab("reliability", f"fuzz_{name}", counts[finding], "", finding)


def _contents() -> Numbers:
    rows = pd.read_csv(datasets.path("contents/contents.csv"))
    for column in ("changed_bytes", "nonzero_bytes"):
        yield _lab("contents", f"contents_{column}", rows[column].sum(), "", column)
    compared = rows[["kept_bytes", "ballooned_bytes"]].sum().sum() / GIB
    yield _lab("contents", "contents_gib", compared, "GiB", "compared byte by byte")


def _drift() -> Numbers:
    """Say how the reference case strayed, which was measured between the others."""
    for row in load(datasets.path("reference")).meta["campaign"]["drift"]:
        name, about = f"drift_{SHORT[row['protocol']]}", f"7/8 of 1 GiB, {row['protocol']}"
        interval = f"range of {row['n']} starts"
        ms = Estimate(row["median_ms"], row["least_ms"], row["greatest_ms"], interval)
        yield estimated("lab", "reference", f"{name}_ms", ms, "ms", "the reference case", about)
        yield _lab("reference", f"{name}_n", row["n"], "times", "it was measured", about)
        if row["percent_per_hour"] is None:
            continue  # too few for a trend
        trend = Estimate(row["percent_per_hour"], row["low"], row["high"], "95 % (Theil and Sen)")
        means = "trend of the reference case per hour", about
        yield estimated("lab", "reference", f"{name}_trend_percent", trend, "%", *means)


PARTS = (
    _published,
    partial(_reproduction, "lab", "headline", "bitmap-v4"),
    partial(_reproduction, "kvm", "kvm", "bitmap-v4"),
    partial(_reproduction, "qemu", "qemu", "reporting"),
    partial(_reproduction, "linux", "linux", "hinting"),
    _drivers,
    _reliability,
    _contents,
    _drift,
)
