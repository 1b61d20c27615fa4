"""Predictions beside measurements, and beyond them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..measurement.tables import check_columns
from .looks import (
    PFN_END_BYTES,
    PFN_END_TEXT,
    PROTOCOLS,
    Axes,
    NoCasesError,
    canvas,
    legend_below,
    mark_limit,
)

LEFT_OUT = {
    "memory_bytes": ("a size", "o", "#1f5a99"),
    "pattern": ("a pattern", "s", "#e8a33d"),
    "run": ("a run", "^", "white"),
    "traces": ("all traces", "D", "black"),
}
"""What was left out of the fit: label, marker, colour."""

OTHERS = ("black", "D")
"""Colour and marker of protocols that have none."""


def validation(checked: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw predictions of cases that were left out of the fit, over their measurement.

    Parameters
    ----------
    checked : pandas.DataFrame
        What `balloonlab.model.validated` returns.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A mark per case, filled by what was left out, with the interval that 95 % are to be in.
    """
    needed = ["left_out", "refused", "measured_ns", "predicted_ns", "low_ns", "high_ns"]
    check_columns(checked, needed, "checked", "model.validated")
    rows = checked[checked["refused"] == ""]
    if rows.empty:
        raise NoCasesError("checked must have cases that were predicted, and has none")
    with canvas(ax, 7.2, 4.2) as ax:
        ax.set_xscale("log")
        ax.set_yscale("log")
        for name, (label, marker, colour) in LEFT_OUT.items():
            mine = rows[rows["left_out"] == name]
            ms, over = mine["measured_ns"] / 1e6, mine["measured_ns"]
            low, high = mine["low_ns"] / over, mine["high_ns"] / over
            ax.vlines(ms, low, high, color="#808080", linewidth=0.4, alpha=0.6, zorder=1)
            look: dict[str, Any] = {
                "color": colour,
                "markeredgecolor": "black",
                "markeredgewidth": 0.4,
            }
            ax.plot(ms, mine["predicted_ns"] / over, marker, ms=4, ls="", label=label, **look)
        ax.axhline(1, color="black", linewidth=0.8)
        ticks = [0.2, 0.5, 1, 2, 5]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_yticks([], minor=True)
        ax.set_ylim(0.15, 7)
        ax.set_xlabel("measured, ms (lab and kvm); lines: 95 % of such cases")
        ax.set_ylabel("predicted over measured")
        ax.set_title("Cases that the model was not fitted to, by what was left out")
        legend_below(ax, 4)
    return ax


def predictions(totals: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw predicted times by memory, a line per protocol.

    Parameters
    ----------
    totals : pandas.DataFrame
        ``totals`` of `balloonlab.predict`, of several memory sizes.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        With the interval that 95 % of such measurements are in; hollow where the case is beyond
        what the model was fitted to.
    """
    needed = ["protocol", "memory_bytes", "time_ns", "low_ns", "high_ns", "extrapolated"]
    check_columns(totals, needed, "totals", "predict")
    if totals.empty:
        raise NoCasesError("totals must have rows to be drawn, and has none")
    with canvas(ax, 7.2, 3.8) as ax:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        for protocol, rows in totals.groupby("protocol", sort=False):
            mine = rows.sort_values("memory_bytes")
            colour, marker = PROTOCOLS.get(str(protocol), OTHERS)
            gib = mine["memory_bytes"] / 2**30
            ax.fill_between(
                gib, mine["low_ns"] / 1e9, mine["high_ns"] / 1e9, color=colour, alpha=0.25
            )
            line: dict[str, Any] = {"color": colour, "label": f"{protocol} (model)", "ls": "--"}
            ax.plot(gib, mine["time_ns"] / 1e9, marker=marker, mfc="white", **line)
            beyond = mine["extrapolated"] != ""
            for flagged, face in ((False, colour), (True, "white")):
                at = beyond == flagged
                seconds = mine.loc[at, "time_ns"] / 1e9
                ax.plot(gib[at], seconds, marker, color=colour, mfc=face, ls="")
        if totals["memory_bytes"].max() >= PFN_END_BYTES:
            mark_limit(ax, PFN_END_BYTES / 2**30, PFN_END_TEXT)
        ticks = [size for size in 4.0 ** np.arange(9) if gib.min() <= size <= 65536]
        ax.set_xticks(ticks, [_size(size) for size in ticks])
        ax.set_xlabel("memory of the guest, 7/8 of it ballooned; hollow: beyond what was fitted")
        ax.set_ylabel("inflation, s")
        ax.set_title("Predicted inflations of idle guests, with what 95 % are within")
        legend_below(ax, 3)
    return ax


def _size(gib: float) -> str:
    return f"{gib:g} GiB" if gib < 1024 else f"{gib / 1024:g} TiB"
