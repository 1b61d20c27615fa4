"""The figures of the comparison: by memory size, by fragmentation, message and discard apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ..measurement.tables import as_frame
from .lines import TIMES, Quantity, scaling
from .stage_bars import GRID, stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BY_MEMORY = ("source", "protocol", "memory")
COUNTED = ("source", "protocol")
"""Series: times depend on whether memory was touched; counts do not, and show touched memory."""


def sizes(frame: Any, y: Quantity = "time_ns", thp: bool = False, ax: Axes | None = None) -> Axes:
    """Draw a quantity by memory size: inflations of idle guests.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        Of each protocol the cases with its usual discard are drawn.
    y : str
        One of `balloonlab.figures.lines.QUANTITIES`.
    thp : bool
        With huge pages or without; they are never in one figure.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        As `balloonlab.figures.scaling`.

    Raises
    ------
    ValueError
        `frame` holds nothing of the kind.
    """
    rows = _usual(as_frame(frame), thp).query("pattern == 'idle'")
    title = f"Inflating a balloon in an idle guest, {'huge pages' if thp else 'no huge pages'}"
    return _lines(rows, "memory_bytes", y, title, ax)


def runs(frame: Any, y: Quantity = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by the mean length of runs: patterns ``geometric:MEAN``.

    Parameters and result as `sizes`.
    """
    frame = as_frame(frame)
    length = frame["pattern"].str.extract(r"^geometric:(\d+)$", expand=False)
    rows = frame[length.notna()].assign(mean_run_pages=length.dropna().astype(int))
    return _lines(_usual(rows), "mean_run_pages", y, "Pages in runs of geometric length", ax)


def density(frame: Any, y: Quantity = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by the share of memory ballooned: random pages of one guest.

    Parameters and result as `sizes`.
    """
    rows = _usual(as_frame(frame)).query("pattern == 'random'")
    percent = (100 * rows["balloon_bytes"] / rows["memory_bytes"]).round().astype(int)
    rows = rows.assign(balloon_percent=percent)
    return _lines(rows, "balloon_percent", y, "Random pages", ax)


def grid(frame: Any, pattern: str = "idle", ax: Axes | None = None) -> Axes:
    """Draw every protocol with every discard: what the message saves, what ranges save.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
    pattern : str
        Of which cases.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        As `balloonlab.figures.stages`.

    Raises
    ------
    ValueError
        `frame` holds nothing of the kind, or several balloons of it.
    """
    rows = _plain(as_frame(frame)).query("pattern == @pattern")
    return stages(rows, GRID, f"Message and discard apart, pattern {pattern}", ax=ax)


def _plain(frame: pd.DataFrame, thp: bool = False) -> pd.DataFrame:
    """Inflations in the pattern's own order, in one step."""
    return frame[frame["thp"] == thp].query(
        "operation == 'inflate' and order == 'as is' and steps == 1 and wait == 'block'"
    )


def _usual(frame: pd.DataFrame, thp: bool = False) -> pd.DataFrame:
    """Those in which the host discards as the protocol's hosts do."""
    rows = _plain(frame, thp)
    return rows[(rows["discard"] == "page") == (rows["protocol"] == "pfn")]


def _lines(rows: pd.DataFrame, x: str, y: Quantity, title: str, ax: Axes | None) -> Axes:
    timed = y in TIMES
    if timed:
        state = rows["touched"].map({True: "touched", False: "untouched"})
        rows = rows.assign(memory=state)
    else:
        rows = rows[rows["touched"]]
    return scaling(rows, x, y, BY_MEMORY if timed else COUNTED, title=title, ax=ax)
