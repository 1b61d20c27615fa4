"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..measurement.on_lab import FLOOR
from ..measurement.options import check_choice
from ..measurement.ratio import ratio_of
from ..measurement.starts import kind_of
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
from ..sizes import GIB, PAGE_BYTES, format_measured, format_number, format_size
from .joined import join
from .looks import PROTOCOLS as COLOURS
from .looks import (
    Axes,
    beside,
    canvas,
    explain_stages,
    log_numbers,
    name_bars,
    stack,
    style,
)

NAMES = {PAPER: "paper, idle guest", FLOOR: "one madvise"}


def headline(frame: Any, ax: Axes | None = None, source: str | None = None) -> Axes:
    """Draw the stages of legacy and bulk inflation as stacked bars, the paper's above.

    Parameters
    ----------
    frame : Reproduction or pandas.DataFrame
        Cases of `balloonlab.reproduce`, touched and untouched. Of each the repeat with the
        median total is drawn; the line on it is the range of its repeats' totals.
    ax : matplotlib.axes.Axes, optional
        Where to draw the bars alone; a new figure by default, which has the same cases in ns per
        page at the right, on a logarithmic scale.
    source : str, optional
        Whose cases: ``lab``, ``kvm``, ``qemu`` or ``linux``; by default the frame's. Beside others
        than the lab's stand those of the lab's shipped run, if of the same sizes.

    Returns
    -------
    matplotlib.axes.Axes
        Each bar carries its total in ms. Where balloons differ in size, from the paper's 7 GiB
        or from each other, all times are per GiB of balloon. At the right stands how many times
        faster a case is than ``pfn`` of the same source and memory, with the interval of
        `balloonlab.ratios` where there are repeats.

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
    bars = [*paper_cases(), *cases_beside_lab(frame, source)]
    height = 0.66 + 0.42 * len(bars)
    if ax is not None:
        with canvas(ax, 7.2, height) as ax:
            _draw_stages(ax, bars, frame)
        return ax
    import matplotlib.pyplot as plt

    with style():
        _, (ax, right) = plt.subplots(
            1, 2, sharey=True, width_ratios=(1.5, 1), figsize=(9.2, height), layout="constrained"
        )
        _draw_stages(ax, bars, frame)
        _draw_pages(right, bars, kind_of(frame))
    join([ax, right], [ax.get_title("left"), "Per page, and how much faster than pfn"])
    return ax


def _draw_stages(ax: Axes, bars: list[Case], frame: pd.DataFrame) -> None:
    balloons_gib = [bar.about["balloon_bytes"] / GIB for bar in bars]
    per_gib = len(set(balloons_gib)) > 1
    for y, bar in enumerate(bars):
        unit, size = ("ms/GiB", balloons_gib[y]) if per_gib else ("ms", 1)
        end = total = stack(ax, y, bar.stages_ms / size)
        if len(bar.totals_ms):
            end = max(total, bar.totals_ms.max() / size)
            ax.plot([bar.totals_ms.min() / size, end], [y, y], "k|-", linewidth=1)
        beside(ax, f"{_written(total, bar)} {unit}", end, y)
    pairs = [(bar.group, bar.protocol) for bar in bars]
    name_bars(ax, [": ".join(NAMES.get(part, part) for part in pair) for pair in pairs])
    ax.set_xlim(0, ax.dataLim.xmax * (1.3 if per_gib else 1.2))
    sources = ", ".join(dict.fromkeys(bar.group.split(", ")[0] for bar in bars[2:]))
    what = "time per GiB of balloon, ms" if per_gib else "time of the inflation, ms"
    ax.set_xlabel(f"{what} ({sources}: median and range)")
    memory, balloon = map(format_size, sizes_of(frame))
    ax.set_title(f"Inflating {balloon} of {memory} (paper: 7 GiB of 8 GiB)")
    explain_stages(ax, {stage for bar in bars for stage in bar.stages_ms.index})


def _written(value: float, bar: Case) -> str:
    """Write what was measured to two digits, what was published as it is."""
    return format_measured(value) if len(bar.totals_ms) else format_number(value)


def _draw_pages(ax: Axes, bars: list[Case], kind: str) -> None:
    """Draw the totals per page, so that a case of milliseconds is seen beside one of seconds."""
    legacy: dict[str, Any] = {}
    least, most = np.inf, 0.0
    for y, bar in enumerate(bars):
        scale = 1e6 * PAGE_BYTES / bar.about["balloon_bytes"]
        total = bar.stages_ms.sum() * scale
        repeats = (bar.totals_ms if len(bar.totals_ms) else pd.Series([total / scale])) * scale
        ax.plot([repeats.min(), repeats.max()], [y, y], "k|-", linewidth=1)
        ax.plot(total, y, "o", ms=5, mfc=_colour(bar.protocol), mec="black")
        text = f"{_written(total, bar)} ns"
        if bar.protocol == "pfn":
            legacy[bar.group] = repeats.to_numpy()
        elif bar.group in legacy:
            text += _gain(legacy[bar.group], repeats.to_numpy(), kind)
        beside(ax, text, repeats.max(), y)
        least, most = min(least, repeats.min()), max(most, repeats.max())
    log_numbers(ax)
    ax.set_xlim(least / 2, most * 60)
    ax.set_xticks(10.0 ** np.arange(np.floor(np.log10(least)), np.log10(most)))
    ax.set_xlabel("time per page, ns, log scale")
    ax.tick_params(axis="y", labelleft=False, length=0)


def _colour(protocol: str) -> str:
    """Return a protocol's colour: that of the bitmap for whatever sends more than single pages."""
    if protocol == FLOOR:
        return "white"
    return COLOURS["pfn" if protocol == "pfn" else "bitmap-v4"][0]


def _gain(legacy: Any, repeats: Any, kind: str) -> str:
    """Write how many times faster, as an interval where there are several repeats."""
    ratio, low, high, _ = ratio_of(legacy, repeats, kind)
    if min(len(legacy), len(repeats)) < 2:
        return f"  {format_measured(ratio)}x"
    least, most = format_measured(low), format_measured(high)
    return f"  {least}x" if least == most else f"  {least} to {most}x"
