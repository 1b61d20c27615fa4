"""What ``balloonlab bench`` prints: the ladder by scenario, and published rates beside it."""

from __future__ import annotations

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from ..datasets import published_rates
from ..measurement.run import Run
from ..sizes import format_measured, format_number, format_size
from ..terminal import WIDTH
from .rungs import rung_times

DIFFERENCES = (
    "paper: HyperAlloc (EuroSys 2025) shrinks a guest of 20 GiB to 2 on another machine; its "
    "artifact divides by 20 GiB, so its rates read 11 % high. lab and kvm have no guest kernel, so "
    "no page is taken from Linux's allocator; return and install is `balloonlab give-back`."
)


def render(run: Run) -> Group:
    """Return the ladders of a run as tables that fit 80 columns, and the published rates."""
    rows = rung_times(run)
    tables = [
        _ladder(f"{scenario} ({source})", part)
        for (scenario, source), part in rows.groupby(["scenario", "source"], sort=False)
    ]
    repeats = sorted(set(rows["repeats"]))
    intervals = set(rows["interval"]) - {""}
    memory = format_size(int(run.frame["memory_bytes"].iloc[0]))
    note = (
        f"Guest of {memory}, {' or '.join(map(str, repeats))} repeats after a warm-up: medians, "
        f"and gains over the first rung with their {' or '.join(sorted(intervals))}; "
        f"{run.meta['cpu_model']}, {run.meta['kernel']}."
    )
    texts = Constrain(Text("\n".join([note, DIFFERENCES])), WIDTH)
    return Group(*tables, _published(), texts)


def _table(title: str, columns: list[str]) -> Table:
    view = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    view.add_column("")
    for column in columns:
        view.add_column(column, justify="right", no_wrap=True)
    return view


def _ladder(title: str, rows: pd.DataFrame) -> Table:
    view = _table(title, ["changes", "ms", "ns/page", "GiB/s", "gain", ""])
    for row in rows.itertuples():
        gain, span = f"{format_measured(row.gain)}x", ""
        if row.interval:
            span = f"{format_measured(row.gain_low)}-{format_measured(row.gain_high)}"
        numbers = (row.median_ms, row.page_ns, row.gib_per_s)
        view.add_row(row.rung, row.who, *map(format_measured, numbers), gain, span)
    return view


def _published() -> Table:
    view = _table("Published, GiB/s (paper)", ["reclaim", "untouched", "return", "and install"])
    for row in published_rates().itertuples():
        reclaim = (row.reclaim_gib_per_s, row.reclaim_untouched_gib_per_s)
        back = (row.return_gib_per_s, row.return_install_gib_per_s)
        view.add_row(str(row.system), *map(format_number, reclaim + back))
    return view
