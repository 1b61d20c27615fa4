"""Numbers of what is really freed, and of what that does to the guest."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .. import datasets
from ..freeing.every_call import PIECES
from ..freeing.every_call import summary as frees_summary
from ..freeing.report import behind
from ..measurement.reading import load
from ..measurement.run import repeat_totals
from ..sizes import HUGE_BYTES, PAGE_BYTES
from .number import STATES, Numbers, Starts, estimated, number, short

KEY = ["backing", "thp", "verb", "piece_bytes"]
BY = ["backing", "protocol", "touched"]
SIZES = dict(zip(PIECES, ("small", "huge"), strict=True))


def _frees() -> Numbers:
    """Count what is freed, and give what it takes."""
    frame = datasets.stacked("frees", "frees.csv")
    for name in ("time_ns", "touch_ns"):
        frame[name] = frame[name] / frame["n_pages"]
    starts = Starts(frame)
    ns = starts.medians(KEY)
    rows = frees_summary(frame)
    for row in rows[rows["freed"].notna()].itertuples():
        name = f"frees_{short(behind(row))}_{row.verb}_{SIZES[row.piece_bytes]}"
        about = f"{behind(row)}, {row.verb}, pieces of {row.piece_bytes} bytes"
        mine = ns.loc[row.backing, row.thp, row.verb, row.piece_bytes]
        page, back = starts.middle(mine["time_ns"]), starts.middle(mine["touch_ns"])
        yield estimated("lab", "frees", f"{name}_ns", page, "ns", about, "per page")
        yield estimated("lab", "frees", f"{name}_back_ns", back, "ns", about, "touched again")
        yield number("lab", "frees", f"{name}_freed", 100 * row.freed, "%", about, "freed")
        later = 100 * row.later
        yield number("lab", "frees", f"{name}_later", later, "%", about, "when memory is short")
        maps = row.mappings_after
        yield number("lab", "frees", f"{name}_mappings", maps, "", about, "mappings afterwards")


def qemu_backings() -> pd.DataFrame:
    """Return ms and the freed share of each backing and protocol in QEMU.

    Columns ``backing``, ``protocol``, ``touched``, ``median_ms``, ``least_ms``, ``greatest_ms``,
    ``page_ns`` (of the median), ``freed`` (share of the balloon; NaN untouched).
    """
    run = load(datasets.path("qemu-backings"))
    cases = run.frame.drop_duplicates("run_id").set_index("run_id")[[*BY, "n_pages"]]
    ms = repeat_totals(run.frame).groupby(level="run_id").agg(["median", "min", "max"]) / 1e6
    ms.columns = pd.Index(["median_ms", "least_ms", "greatest_ms"])
    table = cases.join(ms)
    freed = run.checks.groupby("run_id")["freed_bytes"].median() / PAGE_BYTES / table["n_pages"]
    table["page_ns"] = 1e6 * table["median_ms"] / table["n_pages"]
    table["freed"] = freed.where(table["touched"])
    return table.sort_values(BY).drop(columns="n_pages").reset_index(drop=True)


def _qemu() -> Numbers:
    run = load(datasets.path("qemu-backings"))
    starts = Starts(run.frame)
    ns, n_pages = starts.times(BY), run.frame.groupby(BY)["n_pages"].first()
    for row in qemu_backings().itertuples():
        state, case = STATES[row.touched], (row.backing, row.protocol, row.touched)
        name = f"qemu_{row.backing}_{row.protocol}_{state}"
        about = f"1 GiB on {row.backing}, {row.protocol}, {state}"
        page = starts.middle(ns[case] / n_pages[case])
        yield estimated("qemu", "qemu-backings", f"{name}_ns", page, "ns", about, "per page")
        if row.touched:
            freed = 100 * row.freed
            yield number("qemu", "qemu-backings", f"{name}_freed", freed, "%", about, "freed")


def _give_back() -> Numbers:
    frame = datasets.stacked("give-back*", "give-back.csv")
    frame = frame.assign(us=frame["time_ns"] / frame["n_units"] / 1e3)
    key = ["source", "backing", "deflated", "unit_bytes"]
    starts = Starts(frame)
    for case, us in starts.medians(key)["us"].groupby(level=key, sort=False):
        source, backing, deflated, unit_bytes = case
        size = "huge_page" if unit_bytes == HUGE_BYTES else "page"
        means = f"first touch of a {size.replace('_', ' ')} on {backing}"
        means += "" if deflated else ", not deflated"
        plain = backing == ("memfd" if source == "linux" else "anonymous")
        name = "give_back" + ("" if plain else f"_{backing}") + ("" if deflated else "_kept")
        name += f"_{size}_{source}_us"
        yield estimated(source, "give-back", name, starts.middle(us), "us", means)


def _collapse() -> Numbers:
    frame = pd.read_csv(datasets.path("collapse/collapse.csv"))
    frame = frame.assign(
        touch_us=frame["touch_ns"] / frame["n_pages"] / 1e3,
        collapse_us=frame["collapse_ns"] / frame["n_collapsed"] / 1e3,
        lost=100 * (1 - frame["huge_bytes_after"] / frame["huge_bytes_before"]),
    )
    about = "half of 1 GiB at random, pfn"
    starts = Starts(frame)
    for source, rows in starts.medians(["source"]).groupby(level="source", sort=False):
        name, of = f"collapse_{source}", (str(source), "collapse")
        huge, page = starts.middle(rows["collapse_us"]), starts.middle(rows["touch_us"])
        yield estimated(*of, f"{name}_us", huge, "us", "a huge page", about)
        yield estimated(*of, f"{name}_lost", starts.middle(rows["lost"]), "%", "huge pages", about)
        yield estimated(*of, f"{name}_touch_us", page, "us", "a page", about)


ENDS = ("p50", "p99", "p999")


def _impact() -> Numbers:
    """Give the steps of another thread, alone and beside an inflation."""
    frame = pd.read_csv(datasets.path("impact/impact.csv"))
    frame = frame.assign(rate=(frame["n_steps"] / frame["time_ns"]).fillna(0.0))
    starts = Starts(frame)
    rows = starts.medians(["source", "phase", "way"])
    for source in frame["source"].unique():
        alone, beside = (rows.loc[source, phase] for phase in ("alone", "inflating"))
        each = alone.groupby(level="start").median()
        for end in ENDS:
            us, name = starts.middle(each[f"{end}_ns"], 1e-3), f"impact_alone_{source}_{end}_us"
            yield estimated(source, "impact", name, us, "us", "1 GiB, alone", f"{end} of a step")
        for way, mine in beside.groupby(level="way", sort=False):
            name, about = f"impact_{short(way)}_{source}", f"1 GiB, {way}"
            measured = partial(estimated, source, "impact")
            share = starts.middle(mine["rate"] / alone.loc[[way], "rate"], 100)
            yield measured(f"{name}_percent", share, "%", about, "steps beside")
            wall = starts.middle(mine["wall_ns"], 1e-6)
            yield measured(f"{name}_ms", wall, "ms", about, "inflation")
            for end in ENDS:
                us, means = starts.middle(mine[f"{end}_ns"], 1e-3), f"{end} of a step"
                yield measured(f"{name}_{end}_us", us, "us", about, means)


PARTS = (_frees, _qemu, _give_back, _collapse, _impact)
