"""Stages stacked: any cases of a frame, a bar each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from .lines import median_interval
from .looks import LOOKS, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = ("touched", "protocol", "discard")
"""Columns that separate what the message won from what the bulk call won."""


def stages(
    frame: pd.DataFrame, by: Sequence[str] = GRID, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the stages of each case as a stacked bar: medians over the repeats.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy frame, as `balloonlab.measure` and its kin return it.
    by : sequence of str
        Columns that tell the cases apart. Cases that differ in others must be selected
        before: what is left is taken for repeats of one case.
    title : str
        What is compared.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Bars from top to bottom in the frame's order, with the median total in ms and its
        95 % bootstrap interval; a stage's part is its median, scaled so that the parts
        sum to that.

    Raises
    ------
    ValueError
        A column is missing, or a case has more than one ``run_id``.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    missing = [name for name in by if name not in frame.columns]
    if missing or frame.empty:
        raise ValueError(f"frame must have rows and the columns {', '.join(by)} to be drawn")
    cases = list(frame.groupby(list(by), sort=False))
    mixed = [key for key, rows in cases if len(set(rows["run_id"])) > 1]
    if mixed:
        raise ValueError(
            f"frame holds several cases for {', '.join(by)} = {mixed[0]}: select one, or name the "
            "columns in which they differ in by="
        )
    with style():
        if ax is None:
            _, ax = plt.subplots(figsize=(7.2, 1.1 + 0.3 * len(cases)), layout="constrained")
        for y, (_, rows) in enumerate(cases):
            _draw(ax, y, rows)
        ax.set_yticks(range(len(cases)), [_label(by, key) for key, _ in cases])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, ax.get_xlim()[1] * 1.1)
        ax.set_xlabel("time of the operation, ms (median, 95 % interval of the total)")
        ax.set_title(f"{title} ({', '.join(frame['source'].unique())})".lstrip())
        drawn = [look for stage, look in LOOKS.items() if (frame["stage"] == stage).any()]
        handles = [Patch(facecolor=c, hatch=h, edgecolor="black") for _, c, h in drawn]
        names = [name for name, _, _ in drawn]
        # Below the axis' label, however few the bars: distances in font sizes, not in axes.
        ax.legend(
            handles, names, ncols=6, loc="upper center", bbox_to_anchor=(0.4, 0), borderaxespad=4.5
        )
    return ax


def _draw(ax: Axes, y: int, rows: pd.DataFrame) -> None:
    totals = rows.groupby("repeat")["time_ns"].sum() / 1e6
    low, middle, high = median_interval(totals)
    parts = rows.groupby(["stage", "repeat"])["time_ns"].sum().groupby("stage").median() / 1e6
    left = 0.0
    for stage, (_, colour, hatch) in LOOKS.items():
        width = parts.get(stage, 0.0) * middle / parts.sum()
        if width:
            ax.barh(y, width, left=left, color=colour, hatch=hatch, edgecolor="black")
        left += width
    ax.errorbar(middle, y, xerr=[[middle - low], [high - middle]], color="black", capsize=2)
    text = f"{middle:,.0f} ms" if middle >= 100 else f"{middle:.3g} ms"
    ax.annotate(text, (high, y), (5, 0), textcoords="offset points", va="center")


def _label(by: Sequence[str], key: tuple[object, ...]) -> str:
    """Name a case: flags by their column's name, the rest by value."""
    words = []
    for name, value in zip(by, key, strict=True):
        if isinstance(value, bool) or name in ("touched", "thp"):
            words.append(name if value else {"touched": "untouched"}.get(name, f"no {name}"))
        else:
            words.append(f"by {value}" if name == "discard" else str(value))
    return ", ".join(words)
