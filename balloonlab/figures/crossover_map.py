"""The crossover map: which format is best, by density and run length, and where guests are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..harness.crossover import PROPOSED, best, recorded_guests
from ..measurement.tables import as_frame
from .looks import Axes, NoCasesError, canvas, legend_below

SHADES = {"pfn": "#8fbbe0", "bitmap": "#e8a33d", "run": "white", "none": "#d9d9d9"}
"""Colour of a cell by what its best format is made of; or where none is apart."""

HATCHES = {"pfn": "", "bitmap": "", "run": "", "none": "...."}
KINDS = {"pfn": "page numbers", "bitmap": "bits", "run": "runs", "none": "kinds not apart"}

LABELS = {"time_ns": "time", "wire_bytes": "bytes", "n_kicks": "kicks"}
SHORT = {"bitmap-v4-wide": "v4-wide", "bitmap-v4": "v4", "bitmap-v3": "v3", "cont-pages": "cont"}
MOST_NAMED = 3


def crossover(
    frame: pd.DataFrame, by: str = "wire_bytes", guests: bool = True, ax: Axes | None = None
) -> Axes:
    """Draw which of the proposed formats is best, by density and mean run.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        What `balloonlab.harness.counted` returned; or `balloonlab.harness.crossover`, of which for
        times the rows of one source, touched or not.
    by : {'wire_bytes', 'time_ns', 'n_kicks'}
        Best by what.
    guests : bool
        Whether the recorded guests are drawn, each a circle.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A cell for each density and mean run, with the best format; grey, with how many are alike,
        where the first is not apart from the second (`balloonlab.harness.best`).
    """
    rows = as_frame(frame)
    from matplotlib.patches import Patch

    if rows.empty:
        raise NoCasesError("frame must have rows to be drawn, and has none")
    cells = best(rows, by)
    columns = sorted(cells["mean_run_pages"].unique())
    lines = sorted(cells["density"].unique())
    with canvas(ax, max(7.2, 1.6 + 0.72 * len(columns)), 1.9 + 0.36 * len(lines)) as ax:
        for cell in cells.itertuples():
            x, y = columns.index(cell.mean_run_pages), lines.index(cell.density)
            kind = _kind(cell.best) if cell.apart else _common(cell.alike)
            style: dict[str, Any] = {
                "facecolor": SHADES[kind],
                "edgecolor": "#808080",
                "linewidth": 0.5,
            }
            ax.bar(x, 1, 1, y - 0.5, hatch=HATCHES[kind], **style)
            box = {"facecolor": SHADES[kind], "edgecolor": "none", "pad": 0.5}
            ax.annotate(_name(cell), (x, y), ha="center", va="center", size=6.5, bbox=box)
        if guests:
            at = recorded_guests()
            ax.plot(
                np.interp(np.log(at["mean_run_pages"]), np.log(columns), range(len(columns))),
                np.interp(at["density"], lines, range(len(lines))),
                *("o",), mfc="none", mec="black", ms=5, ls="", label="recorded inflations (trace)",
            )  # fmt: skip
        ax.set_xticks(range(len(columns)), [f"{n:,}" for n in columns])
        ax.set_yticks(range(len(lines)), [f"{100 * share:g}" for share in lines])
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_ylim(-0.5, len(lines) - 0.5)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.set_xlabel("mean length of a run, pages (ends: that or longer)")
        ax.set_ylabel("share of memory in the set, %")
        ax.set_title(_title(rows, by))
        handles: list[Any] = [
            Patch(facecolor=SHADES[kind], hatch=HATCHES[kind], edgecolor="#808080", label=label)
            for kind, label in KINDS.items()
        ]
        legend_below(ax, 3, handles=[*handles, *ax.lines])
    return ax


def _kind(protocol: str) -> str:
    if protocol == "pfn":
        return "pfn"
    return "bitmap" if protocol.startswith("bitmap") else "run"


def _common(alike: tuple[str, ...]) -> str:
    """Return the kind of formats that are alike, or none where they are of several."""
    kinds = {_kind(name) for name in alike}
    return kinds.pop() if len(kinds) == 1 else "none"


def _name(cell: object) -> str:
    alike = cell.alike  # type: ignore[attr-defined]
    if len(alike) > MOST_NAMED:
        return f"{len(alike)} alike"
    return "\n".join(SHORT.get(name, name) for name in alike[: MOST_NAMED - 1])


def _title(rows: pd.DataFrame, by: str) -> str:
    if by != "time_ns":
        return f"Fewest {LABELS[by]} of {len(PROPOSED)} proposed formats"
    source, touched = rows["source"].iloc[0], rows["touched"].iloc[0]
    state = "touched" if touched else "untouched"
    return f"Shortest inflation of {len(PROPOSED)} proposed formats ({source}, {state})"
