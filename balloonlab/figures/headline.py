"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ..datasets import published
from ..reproduction.reproduction import lab_beside, measured_cases
from ..sizes import format_size
from .style import LOOKS, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {"madvise": "one madvise"}


class Bar(NamedTuple):
    """A case: label, ms by stage (``total`` if undivided), totals of its repeats for the range."""

    label: str
    stages: dict[str, float]
    totals_ms: list[float]


def _paper_bars() -> list[Bar]:
    bars = []
    for protocol in ("pfn", "bitmap-v4"):
        rows = published().query("protocol == @protocol")
        stages = dict(zip(rows["stage"], rows["time_ms"], strict=True))
        bars.append(Bar(f"paper, idle guest: {protocol}", stages, []))
    return bars


def _measured_bars(frame: pd.DataFrame, source: str) -> list[Bar]:
    bars = []
    for memory, protocol, repeat in measured_cases(frame, source):
        stages = (repeat.groupby("stage")["time_ns"].sum() / 1e6).to_dict()
        case = frame[frame["run_id"] == repeat["run_id"].iloc[0]]
        totals = case.groupby("repeat")["time_ns"].sum() / 1e6
        name = LABELS.get(protocol, protocol)
        bars.append(Bar(f"{memory}: {name}", stages, totals.tolist()))
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
    bars = [bar._replace(totals_ms=[]) for bar in _measured_bars(frame, "lab")]
    xlabel = "time of the inflation, ms (lab: repeat with the median total)"
    return _draw([*_paper_bars(), *bars], xlabel, _title(frame), ax)


def qemu_headline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the stages of an unmodified QEMU beside the paper's and the lab's, as `headline` does.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of ``balloonlab.reproduce(host="qemu")``: cases ``pfn`` and ``reporting``, touched and
        untouched. The lab's cases are of the run that comes with balloonlab, where that has
        the same sizes.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        As `headline`; a line on a measured bar is the range of its repeats' totals.
    """
    measured = _measured_bars(frame, "qemu")
    lab = lab_beside(frame)
    if lab is not None:
        measured = _measured_bars(lab.frame, "lab") + measured
    xlabel = "time of the inflation, ms (lab, qemu: median repeat; line: range of the repeats)"
    return _draw([*_paper_bars(), *measured], xlabel, _title(frame), ax)


def _draw(bars: list[Bar], xlabel: str, title: str, ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    height = 0.66 + 0.42 * len(bars)
    with style():
        if ax is None:
            _, ax = plt.subplots(figsize=(7.2, height), layout="constrained")
        legacy_ms: dict[str, float] = {}
        widest_ms = 0.0
        for y, bar in enumerate(bars):
            total_ms = _stack(ax, y, bar.stages)
            memory, protocol = bar.label.split(": ")
            if protocol == "pfn":
                legacy_ms[memory] = total_ms
            end_ms = max([total_ms, *bar.totals_ms])
            if bar.totals_ms:
                ax.plot([min(bar.totals_ms), end_ms], [y, y], "k|-", linewidth=1)
            widest_ms = max(widest_ms, end_ms)
            text = f"{total_ms:,.0f} ms" if total_ms >= 100 else f"{total_ms:.1f} ms"
            if protocol != "pfn" and memory in legacy_ms:
                text += f"  ({legacy_ms[memory] / total_ms:.1f}x)"
            ax.annotate(text, (end_ms, y), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(bars)), [bar.label for bar in bars])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, widest_ms * 1.14)
        ax.set_xlabel(xlabel)
        ax.set_title(title)
        handles = [
            Patch(facecolor=colour, hatch=hatch, edgecolor="black")
            for _, colour, hatch in LOOKS.values()
        ]
        names = [name for name, _, _ in LOOKS.values()]
        below = (0.35, -0.61 / height)
        ax.legend(handles, names, loc="upper center", bbox_to_anchor=below, ncols=6)
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
