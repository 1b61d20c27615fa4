"""Time against anything that grows: memory size, steps, density."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from ..measurement.estimates import middle
from ..measurement.starts import kind_of, unit_times
from ..measurement.tables import as_frame
from ..sizes import GIB, format_size
from .looks import DASH_LENGTH, PROTOCOLS, Axes, canvas, check_cases, legend_below, rank

MARKS = (
    ("o-", "#16304f"),
    ("s--", "#c0762a"),
    ("^-.", "#4f8fcb"),
    ("D:", "#707070"),
    ("v-", "#9a4d1c"),
    ("P--", "#2f2f2f"),
    ("X-.", "#8fbbe0"),
    ("*:", "black"),
)
"""Marker and line, colour of each series: distinct without colour."""

DASHES = "-", "--", "-.", ":"
"""Lines of series that are of one protocol, and have its colour and marker."""

LABELS = {
    "memory_bytes": "memory of the guest",
    "balloon_bytes": "size of the balloon",
    "balloon_percent": "share of the guest's memory that is ballooned, %",
    "mean_run_pages": "mean length of a run, pages",
    "steps": "equal steps in which the balloon is inflated",
    "kick_pages": "pages per message",
    "in_flight": "messages under way",
}


Quantity: TypeAlias = Literal[
    "time_ns", "rate", "n_kicks", "wire_bytes", "n_records", "n_discards", "page_ns"
]
QUANTITIES = {
    "time_ns": "time, ms",
    "rate": "rate, GiB/s of balloon",
    "n_kicks": "kicks",
    "wire_bytes": "bytes on the queue",
    "n_records": "records",
    "n_discards": "madvise calls",
    "page_ns": "time per page, ns",
}
"""What can be drawn, with its unit."""

MADE_OF = {"rate": ["time_ns", "balloon_bytes"], "page_ns": ["time_ns", "n_pages"]}
"""Columns of those that are no column."""

TIMES = ("time_ns", "rate", "page_ns")
"""Those that are measured; the others are counts."""


def scaling(
    frame: Any,
    x: str = "memory_bytes",
    y: Quantity = "time_ns",
    series: Sequence[str] = ("source", "protocol"),
    stage: str | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a quantity of an operation against one of the frame's columns, log-log.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        As `balloonlab.measure` and its kin return it.
    x : str
        The column to draw against.
    y : {"time_ns", "rate", "n_kicks", "wire_bytes", "n_records", "n_discards", "page_ns"}
        What to draw.
    series : sequence of str
        Columns that make a line of their own; name ``source`` among them.
    stage : str, optional
        Of which stage to draw the time or the rate, one of
        `balloonlab.measurement.stages.STAGES`; of the whole operation by default.
    title : str
        What is compared.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A line per series: medians with 95 % intervals over process starts, of fewer than five or
        of the repeats of one the range. A protocol has one colour and marker throughout; the dash
        tells what else differs, hollow is ``model``.

    Raises
    ------
    ValueError
        A column is missing, no rows are left, `y` is not known, or a point has several cases.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> sizes = load(datasets.path("sizes")).frame.query("touched and not thp")
    >>> scaling(sizes, y="page_ns").get_ylabel()
    'time per page, ns'
    """
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    frame = as_frame(frame)
    if y not in QUANTITIES:
        raise ValueError(f"y must be one of {', '.join(QUANTITIES)}, got {y!r}")
    rows = frame if stage is None else frame[frame["stage"] == stage]
    of = "" if stage is None else f" of stage {stage!r}"
    check_cases(rows, [*series, x], "series", of, MADE_OF.get(y, [y]))
    cases, kind = _quantity(rows, [*series, x], y), kind_of(rows)
    groups = sorted(
        cases.groupby(list(series), sort=False), key=lambda group: [*map(rank, group[0])]
    )
    with canvas(ax, 5.2, 3.4) as ax:
        looks = _looks(series, [name for name, _ in groups])
        for look, (name, points) in zip(looks, groups, strict=True):
            points = points.droplevel(list(series)).sort_index()
            value, low, high = np.array([middle(sample, kind)[:3] for sample in points]).T
            label, yerr = ", ".join(map(str, name)), (value - low, high - value)
            ax.errorbar(points.index, value, yerr, capsize=2, label=label, **look)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        ax.yaxis.set_major_formatter("{x:,.10g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ticks = np.unique(cases.index.get_level_values(x))
        ticks = ticks[:: -(-len(ticks) // 8)]  # eight at most
        names = [format_size(int(n)) if x.endswith("_bytes") else f"{n:,}" for n in ticks]
        ax.set_xticks(ticks, names, minor=False)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(LABELS.get(x, x))
        timed = stage is not None and y in TIMES
        ax.set_ylabel(f"{QUANTITIES[y]} (stage {stage})" if timed else QUANTITIES[y])
        ax.set_title(title)
        if len(groups) <= 2:  # their legend finds a place among the lines
            ax.legend(handlelength=DASH_LENGTH)
        else:
            legend_below(ax, 2, handlelength=DASH_LENGTH)
    return ax


def _looks(series: Sequence[str], names: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return the look of each line: colour and marker by protocol, dash and fill by the rest."""
    if "protocol" not in series:
        return [{"fmt": mark, "color": colour} for (mark, colour), _ in zip(cycle(MARKS), names)]
    place = list(series).index("protocol")
    rests = list(dict.fromkeys((*name[:place], *name[place + 1 :]) for name in names))
    others = (name[place] for name in names if name[place] not in PROTOCOLS)
    spare = dict(zip(dict.fromkeys(others), cycle(MARKS[2:]), strict=False))
    looks = []
    for name in names:
        rest = (*name[:place], *name[place + 1 :])
        if name[place] in PROTOCOLS:
            colour, marker = PROTOCOLS[name[place]]
        else:
            marker, colour = spare[name[place]][0][0], spare[name[place]][1]
        dash = DASHES[rests.index(rest) % len(DASHES)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dash}
        looks.append(look | ({"mfc": "white"} if "model" in rest else {}))
    return looks


def _quantity(rows: pd.DataFrame, by: list[str], y: str) -> pd.Series:
    """Return an array for each case: times of its starts, or counts of its repeats."""
    cases = rows.groupby(by, sort=False)
    if y not in TIMES:
        return rows.groupby([*by, "repeat"])[y].first().groupby(by).apply(np.asarray)
    ns = unit_times(rows, by)
    if y == "rate":
        return cases["balloon_bytes"].first() / GIB / (ns / 1e9)
    return ns / (1e6 if y == "time_ns" else cases["n_pages"].first())
