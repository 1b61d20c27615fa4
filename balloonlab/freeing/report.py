"""What ``balloonlab frees`` prints: a table for each size of piece."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from ..sizes import format_measured, format_size
from ..terminal import WIDTH
from .every_call import PIECES, summary


def render(frame: pd.DataFrame) -> Group:
    """Return what `balloonlab.frees` found as tables that fit 100 columns, and what is refused."""
    rows = summary(frame)
    measured, refused = rows[rows["freed"].notna()], rows[rows["freed"].isna()]
    tables = [_table(size, measured[measured["piece_bytes"] == size]) for size in PIECES]
    sources = " and ".join(sorted(set(frame["source"])))
    n = int(frame.loc[frame["reason"] == "", "repeat"].max()) + 1
    note = (
        f"{sources}: medians of {n} repeats, a call per piece. Back: the guest's next write to "
        "each page. Maps: mappings of RAM afterwards, of 65,530 that a process may have. Huge: "
        "transparent huge pages that are left. Later: when the host is short of memory, a huge "
        "page of which some is discarded is held whole till then."
    )
    reasons = refused.groupby("reason", sort=False)
    texts = [note, *(f"Not made, {_named(part)}: {reason}." for reason, part in reasons)]
    return Group(*tables, Constrain(Text("\n".join(texts)), WIDTH))


def behind(row: Any) -> str:
    """Return what is behind RAM: transparent huge pages are THP."""
    return f"{row.backing}, THP" if row.thp else str(row.backing)


def _named(refused: pd.DataFrame) -> str:
    backings = dict.fromkeys(map(behind, refused.itertuples()))
    return f"{', '.join(dict.fromkeys(refused['verb']))} of {', '.join(backings)}"


def _table(piece_bytes: int, rows: pd.DataFrame) -> Table:
    view = Table(
        title=f"Every second {format_size(piece_bytes)} discarded", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("behind RAM", "verb", "frees", "reads"):
        view.add_column(name, no_wrap=True)
    for name in ("ns/page", "back", "maps", "huge"):
        view.add_column(name, justify="right", no_wrap=True)
    for row in rows.itertuples():
        freed = {0.0: "nothing", 1.0: "all"}.get(row.freed, f"{row.freed:.0%}")
        freed = "later" if row.later > row.freed else freed
        freed = "fails" if row.reason else freed
        times = (format_measured(row.page_ns), format_measured(row.touch_ns))
        huge = row.huge_bytes_before and row.huge_bytes_after / row.huge_bytes_before
        left = f"{int(row.mappings_after):,}", f"{huge:.0%}" if row.thp else ""
        view.add_row(behind(row), row.verb, freed, row.reads, *times, *left)
    return view
