"""The posted driver's figure: where it crashes its guest."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..sizes import format_size
from ..wire.defects import SENT_ONCE
from .looks import Axes, canvas

DARK = 0.3
"""Share of the balloon sent below which a cell is dark, and its text white."""


def defect_rates(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the outcomes of the posted driver, by memory size and fragmentation.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `balloonlab.wire.defect_rates` returns it; one without rows raises ValueError.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A cell for each memory size and mean run: how many of the page sets end in a defect
        (fail), and the median share of the balloon sent by then; the darker the less.
    """
    if frame.empty:
        raise ValueError("frame must have rows, as balloonlab.wire.defect_rates returns them")
    cells = frame.assign(failed=frame["outcome"] != SENT_ONCE).pivot_table(
        index="memory_bytes",
        columns="mean_run_pages",
        aggfunc={"failed": "mean", "sent_share": "median"},
    )
    failed, sent = cells["failed"], cells["sent_share"]
    with canvas(ax, 1.5 + 0.8 * sent.shape[1], 1.2 + 0.42 * sent.shape[0]) as ax:
        ax.imshow(sent, cmap="Blues_r", vmin=-0.35, vmax=1, aspect="auto")
        for (y, x), share in np.ndenumerate(sent):
            part = failed.iloc[y, x]
            text = f"{part:.0%} fail\n{share:.0%} sent" if part else "all sent"
            colour = "white" if share < DARK else "black"
            ax.annotate(text, (x, y), ha="center", va="center", size=7, color=colour)
        ax.set_xticks(range(sent.shape[1]), [f"{n:,}" for n in sent.columns])
        ax.set_yticks(range(sent.shape[0]), [format_size(int(n)) for n in sent.index])
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.set_xlabel("mean length of a run of ballooned pages (half of memory is ballooned)")
        ax.set_ylabel("memory of the guest")
        n_trials = frame["trial"].nunique()
        ax.set_title(f"The driver as posted: outcomes of {n_trials} random balloons per cell")
    return ax
