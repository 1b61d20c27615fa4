"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import pandas as pd

from ..measurement.on_lab import FLOOR
from ..measurement.tables import as_frame
from ..reproduction.reproduction import PAPER, Case, lab_beside, measured_cases, paper_cases
from ..sizes import GIB, format_number, format_size
from .looks import Axes, beside, canvas, explain_stages, name_bars, stack


def headline(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw the stages of legacy and bitmap inflation as stacked bars.

    Parameters
    ----------
    frame : Reproduction or pandas.DataFrame
        Cases ``pfn``, ``bitmap-v4`` and the floor, touched and untouched. Of each the repeat
        with the median total is drawn; the line on it is the range of its repeats' totals.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Each bar carries its total in ms and how many times faster it is than ``pfn`` of
        the same source and memory. Where the balloon differs from the paper's 7 GiB, all
        times are per GiB of balloon.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> ax = headline(load(datasets.path("headline")))
    >>> ax.texts[0].get_text()
    '4,126 ms'
    """
    frame = as_frame(frame)
    return _draw(measured_cases(frame, "lab"), "lab", frame, ax)


def qemu_headline(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw the stages of an unmodified QEMU beside the paper's and the lab's, as `headline` does.

    Parameters
    ----------
    frame : Reproduction or pandas.DataFrame
        Of ``balloonlab.reproduce(host="qemu")``: cases ``pfn`` and ``reporting``, touched and
        untouched. The lab's cases are of the run that comes with balloonlab, where that has
        the same sizes.
    ax
        As in `headline`, whose result is returned.
    """
    frame = as_frame(frame)
    lab = lab_beside(frame)
    beside = () if lab is None else measured_cases(lab.frame, "lab")
    return _draw(chain(beside, measured_cases(frame, "qemu")), "lab, qemu", frame, ax)


def _draw(measured: Iterable[Case], sources: str, frame: pd.DataFrame, ax: Axes | None) -> Axes:
    bars = [*paper_cases(), *measured]
    balloons_gib = [bar.about["balloon_bytes"] / GIB for bar in bars]
    per_gib = len(set(balloons_gib)) > 1
    legacy: dict[str, float] = {}
    with canvas(ax, 7.2, 0.66 + 0.42 * len(bars)) as ax:
        for y, bar in enumerate(bars):
            unit, size = ("ms/GiB", balloons_gib[y]) if per_gib else ("ms", 1)
            end = total = stack(ax, y, bar.stages_ms / size)
            if len(bar.totals_ms):
                end = max(total, bar.totals_ms.max() / size)
                ax.plot([bar.totals_ms.min() / size, end], [y, y], "k|-", linewidth=1)
            text = f"{format_number(total)} {unit}"
            if bar.protocol == "pfn":
                legacy[bar.group] = total
            elif bar.group in legacy:
                text += f"  ({format_number(legacy[bar.group] / total)}x)"
            beside(ax, text, end, y)
        names = {PAPER: "paper, idle guest", FLOOR: "one madvise"}
        pairs = [(bar.group, bar.protocol) for bar in bars]
        name_bars(ax, [": ".join(names.get(part, part) for part in pair) for pair in pairs])
        ax.set_xlim(0, ax.dataLim.xmax * 1.2)
        what = "time per GiB of balloon, ms" if per_gib else "time of the inflation, ms"
        ax.set_xlabel(f"{what} ({sources}: median repeat; line: range of the repeats)")
        first = frame.iloc[0]
        balloon, memory = (format_size(int(first[f"{of}_bytes"])) for of in ("balloon", "memory"))
        ax.set_title(f"Inflating {balloon} of a guest's {memory} (paper: 7 GiB of 8 GiB)")
        explain_stages(ax, {stage for bar in bars for stage in bar.stages_ms.index})
    return ax
