"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..lab.published import published
from ..lab.reproduction import median_repeat
from ..sizes import format_size
from .style import STAGES, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {"pfn": "pfn", "bitmap-v4": "bitmap-v4", "madvise": "one madvise"}


def _bars(frame: pd.DataFrame) -> list[tuple[str, dict[str, float]]]:
    """List the bars from top to bottom: label and ms by stage (``total`` if undivided)."""
    bars = []
    for protocol in ("pfn", "bitmap-v4"):
        rows = published().query("protocol == @protocol")
        stages = dict(zip(rows["stage"], rows["time_ms"], strict=True))
        bars.append((f"paper, idle guest: {protocol}", stages))
    for touched in (False, True):
        state = "touched" if touched else "untouched"
        for protocol, name in LABELS.items():
            repeat = median_repeat(frame, protocol, touched)
            if len(repeat):
                stages = (repeat.groupby("stage")["time_ns"].sum() / 1e6).to_dict()
                bars.append((f"lab, {state}: {name}", stages))
    return bars


def headline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the stages of legacy and bitmap inflation as stacked bars.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``Reproduction.frame``: cases ``pfn``, ``bitmap-v4`` and the floor, touched
        and untouched. Of each the repeat with the median total is drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    import matplotlib.pyplot as plt

    bars = _bars(frame)
    with style():
        if ax is None:
            _, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
        widest = max(sum(stages.values()) for _, stages in bars)
        for y, (_, stages) in enumerate(bars):
            left = 0.0
            for stage, (label, colour, hatch) in STAGES.items():
                width = stages.get(stage, 0.0)
                ax.barh(
                    y, width, left=left, color=colour, hatch=hatch, edgecolor="black",
                    label=label if y == 0 else None,
                )  # fmt: skip
                left += width
            if "total" in stages:
                ax.barh(
                    y, stages["total"], color="white", hatch="....", edgecolor="black",
                    label="not broken down",
                )  # fmt: skip
                left = stages["total"]
            digits = 0 if left >= 100 else 1
            ax.annotate(
                f"{left:,.{digits}f} ms", (left, y), (4, 0), textcoords="offset points", va="center"
            )
        ax.set_yticks(range(len(bars)), [label for label, _ in bars])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, widest * 1.13)
        ax.set_xlabel("time of the inflation, ms")
        ax.set_title(_title(frame))
        ax.legend(loc="lower right")
    return ax


def _title(frame: pd.DataFrame) -> str:
    first = frame.iloc[0]
    balloon, memory = (format_size(int(first[f"{name}_bytes"])) for name in ("balloon", "memory"))
    return f"Inflating {balloon} of a {memory} guest (paper: 7 GiB of 8 GiB)"
