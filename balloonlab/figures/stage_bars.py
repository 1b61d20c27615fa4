"""Stages stacked: any cases of a frame, a bar each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd

from ..measurement.estimates import Estimate, middle
from ..measurement.run import CASE
from ..measurement.starts import kind_of, unit_times
from ..measurement.tables import as_frame
from ..sizes import GIB, format_measured, format_size
from .looks import Axes, beside, canvas, check_cases, explain_stages, name_bars, rank, stack

AXES = (*(name for name in CASE if name not in ("protocol", "discard")), "protocol", "discard")
"""Columns in which cases may differ, as a bar's label has them."""

FLAGS = {"touched": ("untouched", "touched"), "thp": ("no huge pages", "huge pages")}
PREFIXES = {"steps": "steps: ", "threads": "threads: ", "bitmaps": "bitmaps: ", "discard": "by "}

Per: TypeAlias = Literal["operation", "GiB", "page"]

LABELS = {
    "operation": ("time of the operation, ms", "ms"),
    "GiB": ("time per GiB of balloon, ms", "ms/GiB"),
    "page": ("time per page, ns", "ns"),
}


def stages(
    frame: Any,
    by: Sequence[str] | None = None,
    title: str = "",
    per: Per | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the stages of each case as a stacked bar: medians over the repeats.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        As `balloonlab.measure` and its kin return it.
    by : sequence of str, optional
        Columns that distinguish the cases; by default those in which they differ.
    title : str
        What is compared.
    per : {"operation", "GiB", "page"}, optional
        What times are divided by; GiB of balloon by default where balloons differ in size, else
        nothing.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Bars in the order of `by` (``pfn`` first), with the median total and its interval, of which
        the axis says what it is; a stage's part is its median, scaled so that parts sum to that.

    Raises
    ------
    TypeError, ValueError
        `frame` is no tidy frame, a column is missing, or a bar has more than one ``run_id``.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> ax = stages(load(datasets.path("headline")))
    >>> ax.get_yticklabels()[0].get_text()
    'untouched, pfn'
    """
    frame = as_frame(frame)
    columns = _differing(frame) if by is None else [by] if isinstance(by, str) else list(by)
    check_cases(frame, columns, "by")
    cases = sorted(frame.groupby(columns, sort=False), key=lambda case: [*map(rank, case[0])])
    if per is None:
        per = "GiB" if len(set(frame.get("balloon_bytes", []))) > 1 else "operation"
    if per not in LABELS:
        raise ValueError(f"per must be one of {', '.join(get_args(Per))}, got {per!r}")
    label, unit = LABELS[per]
    with canvas(ax, 7.2, 1.1 + 0.3 * len(cases)) as ax:
        totals = [_draw(ax, y, rows, per, unit) for y, (_, rows) in enumerate(cases)]
        name_bars(ax, [_label(columns, key) for key, _ in cases])
        ax.set_xlim(0, ax.get_xlim()[1] * 1.18)
        intervals = " or ".join(dict.fromkeys(total.interval for total in totals))
        ax.set_xlabel(f"{label} (median; {intervals})")
        ax.set_title(f"{title or 'Time by stage'} ({', '.join(frame['source'].unique())})")
        explain_stages(ax, frame["stage"])
    return ax


def _differing(frame: pd.DataFrame) -> list[str]:
    """Return the fewest columns that distinguish the cases of a frame."""
    cases = frame.drop_duplicates("run_id") if "run_id" in frame else frame
    columns = [name for name in AXES if name in frame and len(set(cases[name])) > 1]
    for name in columns[::-1]:
        fewer = [other for other in columns if other != name]
        if fewer and len(cases.drop_duplicates(fewer)) == len(cases):
            columns = fewer
    return columns or ["protocol"]


def _draw(ax: Axes, y: int, rows: pd.DataFrame, per: Per, unit: str) -> Estimate:
    scale = rows["n_pages"].iloc[0] if per == "page" else 1e6
    if per == "GiB":
        scale *= rows["balloon_bytes"].iloc[0] / GIB
    total = middle(unit_times(rows).item() / scale, kind_of(rows))
    parts = rows.groupby(["stage", "repeat"])["time_ns"].sum().groupby("stage").median()
    stack(ax, y, (parts * total.value / parts.sum()).to_dict())
    xerr = [[total.value - total.low], [total.high - total.value]]
    ax.errorbar(total.value, y, xerr=xerr, color="black", capsize=2)
    beside(ax, f"{format_measured(total.value)} {unit}", total.high, y)
    return total


def _label(by: Sequence[str], key: tuple[Any, ...]) -> str:
    """Name a case: flags by their column's name, sizes with their unit, the rest by value."""
    words = []
    for name, value in zip(by, key, strict=True):
        if name in FLAGS:
            words.append(FLAGS[name][bool(value)])
        else:
            text = format_size(int(value)) if name.endswith("_bytes") else value
            words.append(f"{PREFIXES.get(name, '')}{text}")
    return ", ".join(words)
