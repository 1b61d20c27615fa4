"""What hosts gain alone: each policy for the legacy message, by kind of guest."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..ladder import policy_times
from ..measurement.tables import as_frame
from .looks import Axes, NoCasesError, canvas, legend_below, log_numbers, name_bars
from .names import pattern_name

MARKS = (
    ("o", "#1f5a99"),
    ("s", "#e8a33d"),
    ("^", "#8fbbe0"),
    ("v", "white"),
    ("D", "black"),
    ("P", "#d9d9d9"),
)
"""Marker and filling of each kind of guest."""


def policies(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw the time per page of each host policy for the legacy message.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        As `balloonlab.ladder.policy_times` takes it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A line per policy (those that are the same on this backing share one), a point per source
        and kind of guest: the median on the range of the repeats, on a logarithmic scale.
    """
    table = policy_times(as_frame(frame))
    lines = _lines(table) if len(table) else []
    if len(lines) < 2:
        raise NoCasesError("frame must have cases of several host policies to be drawn")
    kinds = list(table.groupby(["source", "pattern"], sort=False))
    with canvas(ax, 7.2, 1.2 + 0.5 * len(lines)) as ax:
        for number, ((source, pattern), mine) in enumerate(kinds):
            below = 0.7 * ((number + 0.5) / len(kinds) - 0.5)
            marker, colour = MARKS[number % len(MARKS)]
            rows = mine.set_index("policy")
            y = [place + below for place, names in enumerate(lines) if names[0] in rows.index]
            rows = rows.loc[[names[0] for names in lines if names[0] in rows.index]]
            ax.hlines(y, rows["least_ns"], rows["greatest_ns"], color="black", linewidth=0.8)
            label = f"{_kind(str(pattern))} ({source})"
            ax.plot(rows["page_ns"], y, marker, color=colour, mec="black", ls="", label=label)
        log_numbers(ax)
        _full_ticks(ax)
        name_bars(ax, [", ".join(names) for names in lines])
        ax.set_xlabel("time per page, ns, log scale (median and range)")
        ax.set_title("What a host makes of today's message, no guest changed")
        legend_below(ax, 3)
    return ax


def _lines(table: pd.DataFrame) -> list[list[str]]:
    """Return the policies line by line: those of the same times together."""
    times = table.pivot_table(index="policy", columns=["source", "pattern"], values="page_ns")
    lines: dict[tuple[float, ...], list[str]] = {}
    for name in dict.fromkeys(table["policy"]):
        lines.setdefault(tuple(times.loc[name].fillna(-1)), []).append(name)
    return list(lines.values())


def _kind(pattern: str) -> str:
    if pattern.startswith("trace:"):
        return f"recorded: {pattern_name(pattern)}"
    return pattern_name(pattern)


def _full_ticks(ax: Axes) -> None:
    from matplotlib.ticker import LogLocator

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
