"""Numbers of what is really freed, and of what that does to the guest."""

from __future__ import annotations

import re

import pandas as pd

from .. import datasets
from ..freeing.beside import summary as impact_summary
from ..freeing.collapsing import summary as collapse_summary
from ..freeing.every_call import PIECES
from ..freeing.every_call import summary as frees_summary
from ..freeing.giving_back import summary as back_summary
from ..freeing.report import behind
from ..measurement.reading import load
from ..measurement.run import repeat_totals
from ..sizes import HUGE_BYTES, PAGE_BYTES
from .number import STATES, Numbers, number

SIZES = dict(zip(PIECES, ("small", "huge"), strict=True))


def _short(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def _frees() -> Numbers:
    rows = frees_summary(datasets.stacked("frees*", "frees.csv"))
    data = datasets.folders("frees")[0].name
    for row in rows[rows["freed"].notna()].itertuples():
        name = f"frees_{_short(behind(row))}_{row.verb}_{SIZES[row.piece_bytes]}"
        about = f"{behind(row)}, {row.verb}, pieces of {row.piece_bytes} bytes"
        yield number("lab", data, f"{name}_ns", row.page_ns, "ns", about, "per page")
        yield number("lab", data, f"{name}_back_ns", row.touch_ns, "ns", about, "touched again")
        yield number("lab", data, f"{name}_freed", 100 * row.freed, "%", about, "freed")
        later = 100 * row.later
        yield number("lab", data, f"{name}_later", later, "%", about, "when memory is short")
        maps = row.mappings_after
        yield number("lab", data, f"{name}_mappings", maps, "", about, "mappings afterwards")


def qemu_backings() -> pd.DataFrame:
    """Return ms and the freed share of each backing and protocol in QEMU.

    Columns ``backing``, ``protocol``, ``touched``, ``median_ms``, ``least_ms``, ``greatest_ms``,
    ``page_ns`` (of the median), ``freed`` (share of the balloon; NaN untouched).
    """
    run = load(datasets.path("qemu-backings"))
    by = ["backing", "protocol", "touched"]
    cases = run.frame.drop_duplicates("run_id").set_index("run_id")[[*by, "n_pages"]]
    ms = repeat_totals(run.frame).groupby(level="run_id").agg(["median", "min", "max"]) / 1e6
    ms.columns = pd.Index(["median_ms", "least_ms", "greatest_ms"])
    table = cases.join(ms)
    freed = run.checks.groupby("run_id")["freed_bytes"].median() / PAGE_BYTES / table["n_pages"]
    table["page_ns"] = 1e6 * table["median_ms"] / table["n_pages"]
    table["freed"] = freed.where(table["touched"])
    return table.sort_values(by).drop(columns="n_pages").reset_index(drop=True)


def _qemu() -> Numbers:
    for row in qemu_backings().itertuples():
        state = STATES[row.touched]
        name = f"qemu_{row.backing}_{row.protocol}_{state}"
        about = f"1 GiB on {row.backing}, {row.protocol}, {state}"
        yield number("qemu", "qemu-backings", f"{name}_ms", row.median_ms, "ms", about)
        yield number("qemu", "qemu-backings", f"{name}_ns", row.page_ns, "ns", about, "per page")
        if row.touched:
            freed = 100 * row.freed
            yield number("qemu", "qemu-backings", f"{name}_freed", freed, "%", about, "freed")


def _give_back() -> Numbers:
    for row in back_summary(datasets.stacked("give-back*", "give-back.csv")).itertuples():
        size = "huge_page" if row.unit_bytes == HUGE_BYTES else "page"
        means = f"first touch of a {size.replace('_', ' ')} on {row.backing}"
        means += "" if row.deflated else ", not deflated"
        plain = row.backing == ("memfd" if row.source == "linux" else "anonymous")
        name = (
            "give_back" + ("" if plain else f"_{row.backing}") + ("" if row.deflated else "_kept")
        )
        name += f"_{size}_{row.source}_us"
        yield number(row.source, "give-back", name, row.median_us, "us", means)


def _collapse() -> Numbers:
    about = "half of 1 GiB at random, pfn"
    for row in collapse_summary(pd.read_csv(datasets.path("collapse/collapse.csv"))).itertuples():
        name, of = f"collapse_{row.source}", (row.source, "collapse")
        yield number(*of, f"{name}_us", row.collapse_us, "us", "a huge page", about)
        yield number(*of, f"{name}_lost", 100 * row.lost, "%", "huge pages", about)
        yield number(*of, f"{name}_touch_us", row.touch_us, "us", "a page", about)


def _impact() -> Numbers:
    table = impact_summary(pd.read_csv(datasets.path("impact/impact.csv")))
    for source, rows in table.groupby("source"):
        for end in ("p50", "p99", "p999"):
            us, name = rows[f"alone_{end}_ns"].iloc[0] / 1e3, f"impact_alone_{source}_{end}_us"
            yield number(source, "impact", name, us, "us", "1 GiB, alone", f"{end} of a step")
    for row in table.itertuples():
        name, about = f"impact_{_short(row.way)}_{row.source}", f"1 GiB, {row.way}"
        share = 100 * row.throughput
        yield number(row.source, "impact", f"{name}_percent", share, "%", about, "steps beside")
        yield number(row.source, "impact", f"{name}_ms", row.wall_ms, "ms", about, "inflation")
        for end in ("p50", "p99", "p999"):
            us, means = getattr(row, f"{end}_ns") / 1e3, f"{end} of a step"
            yield number(row.source, "impact", f"{name}_{end}_us", us, "us", about, means)


PARTS = (_frees, _qemu, _give_back, _collapse, _impact)
