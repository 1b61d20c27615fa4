"""What an inflation does to another thread of the guest: its steps, from the usual to the worst."""

from __future__ import annotations

import pandas as pd

from ..freeing.beside import summary
from ..sizes import format_measured
from .looks import SOURCES, Axes, NoCasesError, beside, canvas, legend_below, name_bars

BELOW = {"lab": 0.0, "kvm": 0.3}
"""How far below the way's line each source is drawn."""

MARKS = {"p50_ns": ("|", "median"), "p99_ns": ("o", "99 %"), "p999_ns": (">", "99.9 %")}


def impact(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how long another thread's steps take while a balloon inflates, by how it is done.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `balloonlab.impact` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Of each way and source a line from the median of a step to its 99th and 99.9th percentile,
        in us on a logarithmic scale; the first line is the thread alone. Beside it the steps it
        does in the same time, as a share of those it does alone, with the range of the repeats.
    """
    rows = summary(frame)
    if rows.empty:
        raise NoCasesError("frame must have rows to be drawn, and has none")
    ways = list(dict.fromkeys(rows["way"]))
    most = 0.0
    with canvas(ax, 7.2, 1.3 + 0.4 * (len(ways) + 1)) as ax:
        ax.set_xscale("log")
        for source, mine in rows.groupby("source", sort=False):
            colour, below = SOURCES[str(source)][0], BELOW[str(source)]
            first = mine.iloc[0]
            lines = [(below, first[[f"alone_{name}" for name in MARKS]].tolist(), "")]
            for row in mine.itertuples():
                ends = (row.throughput_least, row.throughput_greatest)
                low, high = (format_measured(100 * end) for end in ends)
                share = f"{format_measured(100 * row.throughput)} % ({low} to {high})"
                times = [getattr(row, name) for name in MARKS]
                lines.append((1 + ways.index(row.way) + below, times, share))
            for y, times, share in lines:
                us = [ns / 1e3 for ns in times]
                most = max(most, us[-1])
                ax.plot([us[0], us[-1]], [y, y], color=colour, linewidth=1)
                for x, (marker, _) in zip(us, MARKS.values(), strict=True):
                    ax.plot(x, y, marker, color=colour, markeredgecolor="black", ls="")
                beside(ax, share, us[-1], y)
            ax.plot([], [], "s", color=colour, markeredgecolor="black", ls="", label=str(source))
        for marker, label in MARKS.values():
            ax.plot([], [], marker, color="white", markeredgecolor="black", ls="", label=label)
        name_bars(ax, ["alone", *ways])
        ax.set_xlim(right=most * 12)
        ax.set_xlabel("time of a step beside the inflation, us; its throughput (range)")
        ax.set_title("Another thread of the guest while the balloon inflates")
        legend_below(ax)
    return ax
