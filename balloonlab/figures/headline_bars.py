"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..measurement.on_lab import FLOOR
from ..measurement.options import check_choice
from ..measurement.tables import as_frame
from ..reproduction.reproduction import (
    PAPER,
    PROTOCOLS,
    Case,
    cases_beside_lab,
    paper_cases,
    sizes_of,
    source_of,
)
from ..sizes import GIB, format_number, format_size
from .looks import Axes, beside, canvas, explain_stages, name_bars, stack


def headline(frame: Any, ax: Axes | None = None, source: str | None = None) -> Axes:
    """Draw the stages of legacy and bulk inflation as stacked bars, the paper's above.

    Parameters
    ----------
    frame : Reproduction or pandas.DataFrame
        Cases of `balloonlab.reproduce`, touched and untouched. Of each the repeat with the
        median total is drawn; the line on it is the range of its repeats' totals.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    source : str, optional
        Whose cases: ``lab``, ``kvm``, ``qemu`` or ``linux``; by default the frame's. Beside others
        than the lab's stand those of the lab's shipped run, if of the same sizes.

    Returns
    -------
    matplotlib.axes.Axes
        Each bar carries its total in ms and how many times faster it is than ``pfn`` of
        the same source and memory. Where balloons differ in size, from the paper's 7 GiB
        or from each other, all times are per GiB of balloon.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> ax = headline(load(datasets.path("headline")))
    >>> ax.texts[0].get_text()
    '4,126 ms'
    """
    frame = as_frame(frame)
    source = source_of(frame) if source is None else source
    check_choice("source", source, PROTOCOLS)
    return _draw(list(cases_beside_lab(frame, source)), frame, ax)


def _draw(measured: list[Case], frame: pd.DataFrame, ax: Axes | None) -> Axes:
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
        sources = ", ".join(dict.fromkeys(bar.group.split(", ")[0] for bar in measured))
        what = "time per GiB of balloon, ms" if per_gib else "time of the inflation, ms"
        ax.set_xlabel(f"{what} ({sources}: median repeat; line: range of the repeats)")
        memory, balloon = map(format_size, sizes_of(frame))
        ax.set_title(f"Inflating {balloon} of {memory} (paper: 7 GiB of 8 GiB)")
        explain_stages(ax, {stage for bar in bars for stage in bar.stages_ms.index})
    return ax
