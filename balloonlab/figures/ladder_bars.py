"""The ladder as a waterfall: what each improvement saves, on the way to the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ..ladder import RUNGS, SCENARIOS, rung_times
from ..measurement.options import check_choice
from ..measurement.tables import as_frame
from ..sizes import format_measured, format_number
from .looks import SOURCES, Axes, NoCasesError, beside, canvas, legend_below, name_bars, save

BELOW = {"lab": 0.0, "kvm": 0.3, "linux": 0.15}
"""How far below the rung's line each source is drawn."""

BY = {"host": "host: ", "both": "host and guest: "}
"""Who must change for a rung, before its name."""


def ladder(frame: Any, scenario: str = "idle, touched", ax: Axes | None = None) -> Axes:
    """Draw the time per page of each rung, and what it saves on the one above.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        What `balloonlab.bench` measured.
    scenario : str
        One of `balloonlab.ladder.SCENARIOS`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Of each source a point for the median time per page, on a logarithmic scale, on the range of
        the repeats; dotted is what the rung saves. Beside it the time, and how many times faster
        than the first rung.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    check_choice("scenario", scenario, SCENARIOS)
    rows = rung_times(as_frame(frame)).query("scenario == @scenario")
    if rows.empty:
        raise NoCasesError(f"frame must have the rungs of {scenario!r} to be drawn, and has not")
    rungs = [rung for rung in RUNGS if rung.name in set(rows["rung"])]
    names = [rung.name for rung in rungs]
    with canvas(ax, 7.2, 1.1 + 0.42 * len(rungs)) as ax:
        ax.set_xscale("log")
        for source, mine in rows.groupby("source", sort=False):
            _draw_source(ax, mine.set_index("rung"), str(source), names)
        name_bars(ax, [f"{BY.get(rung.who, '')}{rung.name}" for rung in rungs])
        ax.set_xlim(rows["page_ns"].min() / 1.5, rows["page_ns"].max() * 5)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda ns, _: format_number(ns)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        sources = ", ".join(rows["source"].unique())
        ax.set_xlabel(f"time per page, ns ({sources}: median and range; dotted: saved)")
        ax.set_title(f"From the legacy driver to the floor: {scenario}")
        legend_below(ax)
    return ax


def save_ladders(frame: Any, folder: Path) -> None:
    """Draw and save the ladder of each scenario that a run has."""
    import matplotlib.pyplot as plt

    for scenario in rung_times(as_frame(frame))["scenario"].unique():
        ax = ladder(frame, scenario)
        save(ax, folder / f"ladder-{scenario.replace(', ', '-').replace(' ', '-')}")
        plt.close(ax.get_figure(root=True))


def _draw_source(ax: Axes, mine: pd.DataFrame, source: str, names: list[str]) -> None:
    """Draw a source's points; the floor is no step down from the rung above."""
    (colour, marker), below = SOURCES[source], BELOW[source]
    above, label = None, source
    for y, name in enumerate(names):
        if name not in mine.index:
            continue
        row = mine.loc[name]
        ns, scale = row["page_ns"], row["page_ns"] / row["median_ms"]
        ends = [row["least_ms"] * scale, row["greatest_ms"] * scale]
        ax.plot(ends, [y + below] * 2, "k|-", linewidth=0.8)
        ax.plot(ns, y + below, marker, color=colour, markeredgecolor="black", label=label, ls="")
        end = max(ns, ends[1])
        if above is not None and row["who"] and above > ns:
            ax.plot([ns, above], [y + below] * 2, "k:", linewidth=0.8)
            end = max(end, above)
        beside(ax, f"{format_measured(ns)} ns  {format_measured(row['gain'])}x", end, y + below)
        above, label = ns, ""
