"""The ladder as a waterfall: what each improvement saves, on the way to the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ..ladder import RUNGS, SCENARIOS, rung_times
from ..measurement.options import check_choice
from ..measurement.tables import as_frame
from ..sizes import format_number
from .looks import Axes, NoCasesError, beside, canvas, legend_below, name_bars, save

SOURCES = {"lab": ("#8fbbe0", ""), "kvm": ("#1f5a99", "////"), "linux": ("#e8a33d", "xxxx")}
"""Colour and hatch of each source's bars."""

BY = {"host": "host: ", "host and guest": "+ guest: "}
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
        Of each source a bar as long as the median time per page, on a logarithmic scale; white is
        what the rung saves, the line the range of the repeats. Beside it the time, and how many
        times faster than the first rung.
    """
    check_choice("scenario", scenario, SCENARIOS)
    rows = rung_times(as_frame(frame)).query("scenario == @scenario")
    if rows.empty:
        raise NoCasesError(f"frame must have the rungs of {scenario!r} to be drawn, and has not")
    rungs = [rung for rung in RUNGS if rung.name in set(rows["rung"])]
    sources = list(rows["source"].unique())
    with canvas(ax, 7.2, 1.1 + 0.26 * len(rungs) * len(sources)) as ax:
        ax.set_xscale("log")
        least = rows["page_ns"].min() / 1.6
        for number, source in enumerate(sources):
            mine = rows[rows["source"] == source].set_index("rung")
            shift = (number - (len(sources) - 1) / 2) * 0.8 / len(sources)
            _draw_source(ax, mine, source, [rung.name for rung in rungs], shift, least)
        name_bars(ax, [f"{BY.get(rung.who, '')}{rung.name}" for rung in rungs])
        ax.set_xlim(least, rows["page_ns"].max() * 6)
        ax.set_xlabel("time per page, ns (median; line: range of the repeats; white: saved)")
        ax.set_title(f"From the legacy driver to the floor: {scenario}")
        if len(sources) > 1:
            legend_below(ax)
    return ax


def save_ladders(frame: Any, folder: Path) -> None:
    """Draw and save the ladder of each scenario that a run has."""
    import matplotlib.pyplot as plt

    for scenario in rung_times(as_frame(frame))["scenario"].unique():
        ax = ladder(frame, scenario)
        save(ax, folder / f"ladder-{scenario.replace(', ', '-').replace(' ', '-')}")
        plt.close(ax.get_figure(root=True))


def _draw_source(
    ax: Axes, mine: pd.DataFrame, source: str, names: list[str], shift: float, least: float
) -> None:
    """Draw a source's bars; the floor is no step down from the rung above."""
    colour, hatch = SOURCES[source]
    thick = 0.8 / max(1, round(0.4 / abs(shift)) if shift else 1)
    above = None
    for y, name in enumerate(names):
        if name not in mine.index:
            continue
        row = mine.loc[name]
        ns, scale = row["page_ns"], row["page_ns"] / row["median_ms"]
        ends = [row["least_ms"] * scale, row["greatest_ms"] * scale]
        look: dict[str, Any] = {"height": thick, "edgecolor": "black", "linewidth": 0.6}
        label = source if y == 0 else None
        ax.barh(y + shift, ns - least, left=least, color=colour, hatch=hatch, label=label, **look)
        end = max(ns, ends[1])
        if above is not None and row["who"] and above > ns:
            ax.barh(y + shift, above - ns, left=ns, color="white", linestyle=":", **look)
            end = max(end, above)
        ax.plot(ends, [y + shift] * 2, "k|-", linewidth=0.8)
        beside(ax, f"{format_number(ns)} ns  {format_number(row['gain'], 2)}x", end, y + shift)
        above = ns
