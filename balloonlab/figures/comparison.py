"""The figures of the comparison: by memory size, by fragmentation, message and discard apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .scaling import scaling
from .stages import stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BY_MEMORY = ("source", "protocol", "memory")
COUNTED = ("source", "protocol")
"""Series: times depend on whether memory was touched; counts do not, and show touched memory."""


def sizes(frame: pd.DataFrame, y: str = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by memory size: idle guests, no huge pages.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy frame; of each protocol the cases with its usual discard are drawn.
    y : str
        One of `balloonlab.figures.scaling.QUANTITIES`.
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
    rows = _usual(frame).query("pattern == 'idle'")
    return _lines(rows, "memory_bytes", y, "Inflating a balloon in an idle guest", ax)


def runs(frame: pd.DataFrame, y: str = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by the mean length of runs: patterns ``geometric:MEAN``.

    Parameters and result as `sizes`.
    """
    length = frame["pattern"].str.extract(r"^geometric:(\d+)$", expand=False)
    rows = frame[length.notna()].assign(mean_run_pages=length.dropna().astype(int))
    return _lines(_usual(rows), "mean_run_pages", y, "Pages in runs of geometric length", ax)


def density(frame: pd.DataFrame, y: str = "time_ns", ax: Axes | None = None) -> Axes:
    """Draw a quantity by the size of the balloon: pages strewn at random over one guest.

    Parameters and result as `sizes`.
    """
    rows = _usual(frame).query("pattern == 'random'")
    return _lines(rows, "balloon_bytes", y, "Pages strewn at random", ax)


def grid(frame: pd.DataFrame, pattern: str = "idle", ax: Axes | None = None) -> Axes:
    """Draw every protocol with every discard: what the message won, what the bulk call won.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy frame.
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
    rows = _plain(frame).query("pattern == @pattern")
    rows = rows.sort_values("protocol", key=lambda names: names != "pfn", kind="stable")
    rows = rows.sort_values("touched", kind="stable")
    return stages(rows, title=f"Message and discard apart, pattern {pattern}", ax=ax)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Inflations in the pattern's own order, without huge pages, in one step."""
    return frame.query(
        "operation == 'inflate' and order == 'as is' and not thp and steps == 1 and wait == 'block'"
    )


def _usual(frame: pd.DataFrame) -> pd.DataFrame:
    """Those in which the host discards as the protocol's hosts do."""
    rows = _plain(frame)
    return rows[(rows["discard"] == "page") == (rows["protocol"] == "pfn")]


def _lines(rows: pd.DataFrame, x: str, y: str, title: str, ax: Axes | None) -> Axes:
    timed = y in ("time_ns", "rate")
    if timed:
        state = rows["touched"].map({True: "touched", False: "untouched"})
        rows = rows.assign(memory=state)
    else:
        rows = rows[rows["touched"]]
    return scaling(rows, x, y, BY_MEMORY if timed else COUNTED, title=title, ax=ax)
