"""The figures of the comparison: by size, fragmentation, guest; message and discard apart."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..measurement.tables import as_frame
from ..pages.traces import PREFIX
from .lines import TIMES, Quantity, scaling
from .looks import PFN_END_BYTES, PFN_END_TEXT, Axes, NoCasesError, mark_limit, rank
from .names import state_name
from .stage_bars import stages


def sizes(frame: Any, y: Quantity = "time_ns", thp: bool = False, ax: Axes | None = None) -> Axes:
    """Draw a quantity by memory size: inflations of idle guests.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        Of each protocol the cases with its usual discard are drawn.
    y, ax
        As in `scaling`; so are the result and the errors.
    thp : bool
        With huge pages or without; they are never in one figure.

    The end of page numbers of 32 bits, at 16 TiB, is marked where the sizes reach it.
    """
    rows = _plain(frame, thp).query("pattern == 'idle'")
    title = f"Inflating a balloon in an idle guest, {'huge pages' if thp else 'no huge pages'}"
    drawn = _lines(rows, "memory_bytes", y, title, ax)
    if rows["memory_bytes"].max() >= PFN_END_BYTES:
        mark_limit(drawn, PFN_END_BYTES, PFN_END_TEXT)
    return drawn


def runs(frame: Any, y: Quantity = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by the mean length of runs (patterns ``geometric:MEAN``), as `sizes` does."""
    rows = _plain(frame)
    length = rows["pattern"].str.extract(r"^geometric:(\d+)$", expand=False)
    rows = rows[length.notna()].assign(mean_run_pages=length.dropna().astype(int))
    return _lines(rows, "mean_run_pages", y, "Pages in runs of geometric length", ax)


def density(frame: Any, y: Quantity = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by the share of memory ballooned (random pages), as `sizes` does."""
    rows = _plain(frame).query("pattern == 'random'")
    percent = (100 * rows["balloon_bytes"] / rows["memory_bytes"]).round().astype(int)
    return _lines(rows.assign(balloon_percent=percent), "balloon_percent", y, "Random pages", ax)


def grid(frame: Any, pattern: str = "idle", ax: Axes | None = None) -> Axes:
    """Draw every protocol with every discard: what the message saves, what ranges save.

    Parameters
    ----------
    frame, ax
        As in `stages`; so are the result and the errors.
    pattern : str
        Of which cases.
    """
    rows, by = _plain(frame).query("pattern == @pattern"), ("touched", "protocol", "discard")
    return stages(rows, by, f"Message and discard apart, pattern {pattern}", "page", ax)


def guests(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw what inflating by the pages of real guests costs: stages by state and protocol.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        Cases whose pattern is a trace are drawn, one of each state, in ns per page: balloons
        differ in size. ValueError where there is none.
    ax
        As in `stages`; so are the result and the other errors.
    """
    frame = as_frame(frame)
    state = frame["pattern"].str.extract(rf"^{PREFIX}(\w+)-", expand=False)
    rows = frame.assign(state=state.map(state_name, na_action="ignore"))[state.notna()]
    if rows.empty:
        raise NoCasesError("frame has not a single case whose pattern is a trace")
    return stages(rows, ["state", "protocol"], "Inflating by the pages of real guests", "page", ax)


def _plain(data: Any, thp: bool = False) -> pd.DataFrame:
    """Return the inflations in the pattern's own order, in one step."""
    return as_frame(data).query(
        "thp == @thp and operation == 'inflate' and order == 'as is' and steps == 1 "
        "and wait == 'block'"
    )


def _lines(plain: pd.DataFrame, x: str, y: Quantity, title: str, ax: Axes | None) -> Axes:
    """Draw times of touched and untouched memory; counts do not depend on it, but of touched.

    Of the cases in which the host discards as the protocol's hosts do; the title says so where
    there are others.
    """
    rows = plain.query("(discard == 'page') == (protocol == 'pfn')")
    if len(rows) < len(plain):
        discards = rows.groupby("protocol")["discard"].first()
        drawn = [f"{name} by {discards[name]}" for name in sorted(discards.index, key=rank)]
        title += f"\n(drawn: {', '.join(drawn)})"
    if y not in TIMES:
        rows = rows[rows["touched"]]
    rows = rows.assign(memory=rows["touched"].map({True: "touched", False: "untouched"}))
    return scaling(rows, x, y, ("source", "protocol", "memory"), title=title, ax=ax)
