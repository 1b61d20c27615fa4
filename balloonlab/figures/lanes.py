"""The timeline of one operation: who does what, batch by batch."""

from __future__ import annotations

import pandas as pd

from ..sizes import format_size
from .looks import LOOKS, Axes, canvas, name_bars

LANES = {
    ("guest", "allocate"): ("allocate", "allocate"),
    ("guest", "release"): ("release", "allocate"),
    ("guest", "pack"): ("pack", "send"),
    ("guest", "round trip"): ("kick, then wait", "total"),
    ("guest", "kick"): ("kick", "send"),
    ("guest", "wait"): ("wait", "total"),
    ("host", "decode"): ("decode", "send"),
    ("host", "translate"): ("translate", "translate"),
    ("host", "discard"): ("discard", "discard"),
}
"""Label and look (as in the stages' figures) of each lane, from top to bottom."""


def timeline(frame: pd.DataFrame, until_us: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the intervals of one operation, one lane per stage of guest and host.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `balloonlab.timeline` and `balloonlab.load_timeline` return it.
    until_us : float, optional
        Where the picture ends; with the operation by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        x is the time since the operation began, in µs or, from 10 ms on, in ms.

    Raises
    ------
    TypeError, ValueError
        `frame` is no timeline, or no interval begins before `until_us`.
    """
    if not isinstance(frame, pd.DataFrame):
        how = "pass what balloonlab.timeline or load_timeline returns"
        raise TypeError(f"frame must be a timeline, got {type(frame).__name__}: {how}")
    missing = [name for name in ("end", "stage", "begin_ns", "end_ns") if name not in frame]
    if missing:
        got = f"got one without {', '.join(missing)}"
        raise ValueError(f"frame must be as of balloonlab.timeline, {got}")
    end_us = frame["end_ns"].max() / 1e3 if until_us is None else until_us
    shown = frame[frame["begin_ns"] < end_us * 1e3]
    if shown.empty:
        raise ValueError(f"until_us must be above the first interval's begin, got {until_us}")
    unit, unit_ns = ("ms", 1e6) if end_us >= 10_000 else ("µs", 1e3)
    by_lane = dict(list(shown.groupby(["end", "stage"])))
    lanes = [key for key in LANES if key in by_lane]
    with canvas(ax, 7.2, 0.9 + 0.3 * len(lanes)) as ax:
        for y, key in enumerate(lanes):
            begin, end = (by_lane[key][name] / unit_ns for name in ("begin_ns", "end_ns"))
            _, colour, hatch = LOOKS[LANES[key][1]]
            spans = list(zip(begin, end - begin, strict=True))
            bars = ax.broken_barh(spans, (y - 0.35, 0.7), facecolor=colour, hatch=hatch)
            bars.set(edgecolor="black", linewidth=0.5)
        name_bars(ax, [f"{key[0]}: {LANES[key][0]}" for key in lanes], 0.5)
        ax.set_xlim(0, end_us * 1e3 / unit_ns)
        about = frame.attrs
        source = about.get("source", "lab")
        ax.set_xlabel(f"time since the operation began, {unit} ({source})")
        if about:
            state = "touched" if about["touched"] else "untouched"
            ax.set_title(
                f"{about['protocol']} by {about['discard']}, "
                f"{format_size(about['balloon_bytes'])} of {state} memory"
            )
    return ax
