"""What each call costs on each backing, whether it frees anything, and what taking back costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..freeing.every_call import PIECES, summary
from ..freeing.giving_back import summary as back_summary
from ..freeing.report import behind
from ..sizes import format_measured, format_size
from .looks import SOURCES, Axes, NoCasesError, beside, canvas, legend_below, name_bars, save

LOOKS = {
    "frees": ("frees all of it", "#1f5a99", ""),
    "later": ("frees it when memory is short", "#8fbbe0", "xxxx"),
    "keeps": ("frees nothing", "white", "////"),
    "fails": ("every call fails", "#d9d9d9", "...."),
}
"""Label, colour and hatch: distinct without colour."""


def frees(frame: pd.DataFrame, piece_bytes: int = PIECES[0], ax: Axes | None = None) -> Axes:
    """Draw the time per page of every call on every backing, and whether it frees memory.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `balloonlab.frees` returned.
    piece_bytes : int
        Pieces that were discarded: 4096, or 2 MiB.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A bar per backing and call, the median per 4 KiB page on the range of the repeats, on a
        logarithmic scale; filled where the call frees memory, hatched where it does not. Beside it
        what a page reads afterwards.
    """
    rows = summary(frame)
    rows = rows[(rows["piece_bytes"] == piece_bytes) & rows["freed"].notna()]
    if rows.empty:
        raise NoCasesError(
            f"frame must have pieces of {piece_bytes} bytes to be drawn, and has not"
        )
    shown: set[str] = set()
    with canvas(ax, 7.2, 1.2 + 0.24 * len(rows)) as ax:
        ax.set_xscale("log")
        for y, row in enumerate(rows.itertuples()):
            kind = "frees" if row.freed > 0.99 else "later" if row.later > 0.5 else "keeps"
            kind = "fails" if row.reason else kind
            label, colour, hatch = LOOKS[kind]
            ax.barh(
                y, row.page_ns, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6,
                label="" if kind in shown else label,
            )  # fmt: skip
            shown.add(kind)
            ax.plot([row.page_least_ns, row.page_greatest_ns], [y, y], "k|-", linewidth=0.8)
            reads = f", reads {row.reads}" if row.reads else ""
            beside(ax, f"{format_measured(row.page_ns)} ns{reads}", row.page_greatest_ns, y)
        name_bars(ax, [f"{behind(row)}: {row.verb}" for row in rows.itertuples()])
        ax.set_xlim(rows["page_ns"].min() / 2, rows["page_greatest_ns"].max() * 12)
        sources = ", ".join(frame["source"].unique())
        ax.set_xlabel(f"time per 4 KiB page, ns ({sources}: median and range)")
        ax.set_title(f"A call per {format_size(piece_bytes)}: what it costs, and what it frees")
        legend_below(ax)
    return ax


def save_frees(frame: pd.DataFrame, folder: Path) -> None:
    """Draw and save both sizes of piece."""
    import matplotlib.pyplot as plt

    for piece_bytes, name in zip(PIECES, ("small", "huge"), strict=True):
        ax = frees(frame, piece_bytes)
        save(ax, folder / f"frees-{name}")
        plt.close(ax.get_figure(root=True))


def give_back(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what it costs guests to touch returned memory, by backing.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `balloonlab.give_back` returned, of one or several calls.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A row per backing, size of page and way; of each source a point for the median of a touch in
        us on the range of the repeats, on a logarithmic scale.
    """
    rows = back_summary(frame)
    if rows.empty:
        raise NoCasesError("frame must have rows to be drawn, and has none")
    by = ["backing", "unit_bytes", "deflated"]
    places = rows[by].drop_duplicates().sort_values(["unit_bytes", "backing", "deflated"])
    keys = [tuple(row) for row in places.to_numpy()]
    with canvas(ax, 7.2, 1.2 + 0.55 * len(keys)) as ax:
        ax.set_xscale("log")
        for source, mine in rows.groupby("source", sort=False):
            colour, marker = SOURCES[str(source)]
            below = 0.28 * (list(SOURCES).index(str(source)) - 1)
            y = np.array([keys.index(tuple(key)) for key in mine[by].to_numpy()]) + below
            ax.hlines(y, mine["least_us"], mine["greatest_us"], color="black", linewidth=0.8)
            ax.plot(
                mine["median_us"], y, marker, color=colour, markeredgecolor="black", ls="",
                label=str(source),
            )  # fmt: skip
            for x, at, us in zip(mine["greatest_us"], y, mine["median_us"], strict=True):
                beside(ax, f"{format_measured(us)} us", x, at)
        name_bars(ax, [_way(*key) for key in keys])
        ax.set_xlim(rows["least_us"].min() / 1.5, rows["greatest_us"].max() * 4)
        ax.set_xlabel("first touch of what was returned, us per page behind RAM (median and range)")
        ax.set_title("What it costs a guest to take memory back")
        legend_below(ax)
    return ax


def _way(backing: str, unit_bytes: int, deflated: bool) -> str:
    return f"{backing}, {format_size(unit_bytes)}{'' if deflated else ', not deflated'}"
