"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..lab.published import published
from ..lab.reproduction import median_repeat
from ..sizes import format_size
from .style import LOOKS, style

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
        Each bar carries its total and how many times faster it is than ``pfn`` of
        the same source and memory.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    bars = _bars(frame)
    with style():
        if ax is None:
            _, ax = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        legacy_ms: dict[str, float] = {}
        widest_ms = 0.0
        for y, (label, stages) in enumerate(bars):
            total_ms = _stack(ax, y, stages)
            memory, protocol = label.split(": ")
            if protocol == "pfn":
                legacy_ms[memory] = total_ms
            widest_ms = max(widest_ms, total_ms)
            text = f"{total_ms:,.0f} ms" if total_ms >= 100 else f"{total_ms:.1f} ms"
            if protocol != "pfn" and memory in legacy_ms:
                text += f"  ({legacy_ms[memory] / total_ms:.1f}x)"
            ax.annotate(text, (total_ms, y), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(bars)), [label for label, _ in bars])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, widest_ms * 1.14)
        ax.set_xlabel("time of the inflation, ms (lab: repeat with the median total)")
        ax.set_title(_title(frame))
        handles = [
            Patch(facecolor=colour, hatch=hatch, edgecolor="black")
            for _, colour, hatch in LOOKS.values()
        ]
        names = [name for name, _, _ in LOOKS.values()]
        ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.35, -0.17), ncols=6)
    return ax


def _stack(ax: Axes, y: int, stages: dict[str, float]) -> float:
    """Draw one bar, stage by stage; return its length in ms."""
    left = 0.0
    for stage, (_, colour, hatch) in LOOKS.items():
        width = stages.get(stage, 0.0)
        if width:
            ax.barh(y, width, left=left, color=colour, hatch=hatch, edgecolor="black")
        left += width
    return left


def _title(frame: pd.DataFrame) -> str:
    first = frame.iloc[0]
    balloon, memory = (format_size(int(first[f"{name}_bytes"])) for name in ("balloon", "memory"))
    return f"Inflating {balloon} of a {memory} guest (paper: 7 GiB of an 8 GiB guest)"
