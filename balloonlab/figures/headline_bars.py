"""The headline figure: where the time of an inflation goes, paper beside machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from ..datasets import published
from ..measurement.tables import as_frame
from ..reproduction.reproduction import lab_beside, measured_cases
from ..sizes import GIB, format_number, format_size
from .looks import beside, canvas, explain_stages, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {"madvise": "one madvise"}


class Bar(NamedTuple):
    """A case: whose it is, ms by stage (``total`` if undivided), totals of its repeats, GiB."""

    group: str
    protocol: str
    stages: dict[str, float]
    totals_ms: list[float]
    balloon_gib: float

    def per_gib(self) -> Bar:
        """Divide all times by the size of the balloon."""
        stages = {name: ms / self.balloon_gib for name, ms in self.stages.items()}
        return self._replace(
            stages=stages, totals_ms=[ms / self.balloon_gib for ms in self.totals_ms]
        )


def _paper_bars() -> list[Bar]:
    bars = []
    for protocol in ("pfn", "bitmap-v4"):
        rows = published().query("protocol == @protocol")
        stages = dict(zip(rows["stage"], rows["time_ms"], strict=True))
        balloon_gib = rows["balloon_bytes"].iloc[0] / GIB
        bars.append(Bar("paper, idle guest", protocol, stages, [], balloon_gib))
    return bars


def _measured_bars(frame: pd.DataFrame, source: str) -> list[Bar]:
    bars = []
    for group, protocol, repeat in measured_cases(frame, source):
        stages = (repeat.groupby("stage")["time_ns"].sum() / 1e6).to_dict()
        case = frame[frame["run_id"] == repeat["run_id"].iloc[0]]
        totals = case.groupby("repeat")["time_ns"].sum() / 1e6
        balloon_gib = repeat["balloon_bytes"].iloc[0] / GIB
        bars.append(Bar(group, protocol, stages, totals.tolist(), balloon_gib))
    return bars


def headline(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw the stages of legacy and bitmap inflation as stacked bars.

    Parameters
    ----------
    frame : Reproduction or pandas.DataFrame
        Cases ``pfn``, ``bitmap-v4`` and the floor, touched and untouched. Of each the repeat
        with the median total is drawn.
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
    bars = [bar._replace(totals_ms=[]) for bar in _measured_bars(frame, "lab")]
    return _draw([*_paper_bars(), *bars], "lab: repeat with the median total", frame, ax)


def qemu_headline(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw the stages of an unmodified QEMU beside the paper's and the lab's, as `headline` does.

    Parameters
    ----------
    frame : Reproduction or pandas.DataFrame
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
    frame = as_frame(frame)
    measured = _measured_bars(frame, "qemu")
    lab = lab_beside(frame)
    if lab is not None:
        measured = _measured_bars(lab.frame, "lab") + measured
    note = "lab, qemu: median repeat; line: range of the repeats"
    return _draw([*_paper_bars(), *measured], note, frame, ax)


def _draw(bars: list[Bar], note: str, frame: pd.DataFrame, ax: Axes | None) -> Axes:
    per_gib = len({bar.balloon_gib for bar in bars}) > 1
    unit = "ms/GiB" if per_gib else "ms"
    legacy: dict[str, float] = {}
    with canvas(ax, 7.2, 0.66 + 0.42 * len(bars)) as ax:
        for y, bar in enumerate(bar.per_gib() if per_gib else bar for bar in bars):
            total = stack(ax, y, bar.stages)
            if bar.protocol == "pfn":
                legacy[bar.group] = total
            end = max([total, *bar.totals_ms])
            if bar.totals_ms:
                ax.plot([min(bar.totals_ms), end], [y, y], "k|-", linewidth=1)
            text = f"{format_number(total)} {unit}"
            if bar.protocol != "pfn" and bar.group in legacy:
                text += f"  ({format_number(legacy[bar.group] / total)}x)"
            beside(ax, text, end, y)
        names = [f"{bar.group}: {LABELS.get(bar.protocol, bar.protocol)}" for bar in bars]
        ax.set_yticks(range(len(bars)), names)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(bars) - 0.4, -0.6)
        ax.set_xlim(0, ax.dataLim.xmax * 1.2)
        what = "time per GiB of balloon, ms" if per_gib else "time of the inflation, ms"
        ax.set_xlabel(f"{what} ({note})")
        first = frame.iloc[0]
        balloon, memory = (format_size(int(first[f"{of}_bytes"])) for of in ("balloon", "memory"))
        ax.set_title(f"Inflating {balloon} of a guest's {memory} (paper: 7 GiB of 8 GiB)")
        explain_stages(ax, {stage for bar in bars for stage in bar.stages})
    return ax
