"""From 2016 to today: both totals taken apart, each step per page, and whole inflations beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..reproduction.inflations import BULK, inflations
from ..reproduction.since_2016 import PARTS
from ..reproduction.since_2016 import since_2016 as taken_apart
from ..sizes import GIB, PAGE_BYTES, format_measured, format_number
from .looks import LOOKS, Axes, beside, name_bars, style

STEPS = {
    "allocate": LOOKS["allocate"],
    "send": LOOKS["send"],
    "notify": ("b exits and wake-ups", "#4f8fcb", "...."),
    "rest of send": ("b pack and decode", "#707070", ""),
    "translate": LOOKS["translate"],
    "discard": LOOKS["discard"],
    "rest": ("b, c and d, not published apart", "white", "...."),
    "unexplained": ("unexplained", "white", "xxxx"),
}
"""Label, colour and hatch of each step, from left to right: distinct without colour."""

BARS = (
    ("published", "idle", "2016"),
    ("taken apart", "untouched", "2016 taken apart, untouched"),
    ("taken apart", "touched", "2016 taken apart, touched"),
    ("today", "untouched", "today, untouched"),
    ("today", "touched", "today, touched"),
)

LINES = ("allocate", "notify", "rest of send", "translate", "discard", "unexplained", "total")
"""Steps that are drawn per page."""

MINUS = "\N{MINUS SIGN}"
NEARLY_ZERO = 1e-6  # ns: where no axis begins

WIDE = {"send": (1, 2), "rest": (1, 4)}
"""Lines that a published time spans which was not broken down."""


BACKWARDS: dict[str, Any] = {"fill": False, "edgecolor": "black", "linestyle": "--"}
"""Look of what today's steps take more than all of 2016's."""


WIDE_LABELS = {"send": "all of b", "rest": "b, c and d"}


class Mark(NamedTuple):
    """How the time of an account is drawn: its label, marker, fill, and how far below its line."""

    label: str
    marker: str
    fill: str
    below: float


MARKS = {
    "idle": Mark("idle guest (paper)", "D", "black", -0.3),
    "untouched": Mark("untouched", "o", "white", 0.0),
    "touched": Mark("touched", "s", "#8fbbe0", 0.3),
}

SYSTEMS = {
    ("paper", "pfn"): "pfn, 2016",
    ("paper", "bitmap-v4"): "bitmap-v4, 2016",
    ("paper", "sg"): "scatter-gather, 2017",
    ("paper", "sg-zeroed"): "the same, zeroing pages, 2017",
    ("paper", "virtio-balloon"): "virtio-balloon, HyperAlloc's, 2025",
    ("paper", "virtio-balloon-huge"): "the same, huge pages, 2025",
    ("paper", "HyperAlloc"): "HyperAlloc, 2025",
}
"""What is drawn of the published inflations, and when they were published."""


def since_2016(frames: Mapping[str, Any] | None = None) -> Any:
    """Draw 4126 and 590 ms taken apart beside what each step takes today.

    Parameters
    ----------
    frames : mapping of str to Run or pandas.DataFrame, optional
        As for `balloonlab.reproduction.since_2016`.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (5,)
        Of ``pfn`` and of ``bitmap-v4`` stacked bars in ms; of both each step in ns per page on a
        logarithmic scale, with its interval; and whole inflations, published and of today. What is
        unexplained ends where 2016's total ends: where today's steps take more, it is drawn
        backwards, dashed, and its number has a minus.

    Raises
    ------
    TypeError, ValueError
        As of `balloonlab.reproduction.since_2016`.

    Examples
    --------
    >>> axes = since_2016()
    >>> axes[0].get_title(loc="left")
    'pfn: 4,126 ms in 2016'
    """
    import matplotlib.pyplot as plt

    frame, whole = taken_apart(frames), inflations(frames)
    parts = [frame[frame["protocol"] == protocol] for protocol in PARTS]
    with style():
        figure = plt.figure(figsize=(8.6, 9.2), layout="constrained")
        places = figure.subplot_mosaic([[0, 1], [2, 3], [4, 4]], height_ratios=[1, 2, 2.2])
        axes = np.array([places[number] for number in range(5)], dtype=object)
        for ax, rows in zip(axes[:2], parts, strict=True):
            _draw_bars(ax, rows)
        for ax, rows in zip(axes[2:4], parts, strict=True):
            _draw_steps(ax, rows)
        today = frame[(frame["account"] == "today") & (frame["step"] != "unexplained")]
        for ax in axes[2:4]:
            ax.set_xlim(today["page_ns"].abs().min() / 9, 2e4)
        name_bars(axes[2], _steps_and_sources(parts))
        name_bars(axes[3], [""] * len(LINES))
        axes[1].set_yticklabels([])
        _draw_whole(axes[4], whole)
        _explain(figure)
    return axes


def _draw_bars(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the accounts as stacked bars in ms, with their totals or what is left over."""
    for y, (account, memory, _) in enumerate(BARS):
        mine = rows[(rows["account"] == account) & (rows["memory"] == memory)].set_index("step")
        end = 0.0
        for step in (step for step in STEPS if step in mine.index):
            ms = float(mine.loc[step, "time_ms"])
            if ms < 0:
                ax.barh(y, ms, 0.5, left=end, **BACKWARDS)
                ax.plot([end + ms] * 2, [y - 0.45, y + 0.45], "k-", linewidth=1.5)
                continue
            _, colour, hatch = STEPS[step]
            ax.barh(y, ms, left=end, color=colour, hatch=hatch, edgecolor="black")
            end += ms
        total = mine.loc["total"]
        if account == "taken apart":
            text = f"{_signed(mine.loc['unexplained', 'time_ms'])} ms unexplained"
        else:
            published = account == "published"
            write = format_number if published else format_measured
            text = f"{write(total['time_ms'])} ms"
            ax.plot([total["low_ms"], total["high_ms"]], [y, y], "k|-", linewidth=1)
            end = max(end, total["high_ms"])
        beside(ax, text, end, y, size=8)
    name_bars(ax, [label for _, _, label in BARS])
    ax.set_xlim(0, ax.dataLim.xmax * 1.5)
    totals = rows[rows["step"] == "total"].set_index("account")
    known = format_number(float(totals.loc["published", "time_ms"]))
    ax.set_title(f"{rows['protocol'].iloc[0]}: {known} ms in 2016")
    today = totals.loc["today", "source"].iloc[0]
    ax.set_xlabel(f"time of inflating 7 of 8 GiB, ms\n(2016: paper; today: sum of {today})")


def _draw_steps(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw each step per page: 2016's, and today's on untouched and on touched memory."""
    ax.set_xscale("log")
    for memory, mark in MARKS.items():
        account = "published" if memory == "idle" else "today"
        mine = rows[(rows["account"] == account) & (rows["memory"] == memory)]
        for row in mine.to_dict("records"):
            if row["step"] in WIDE:
                first, last = WIDE[row["step"]]
                ax.plot([row["page_ns"]] * 2, [first - 0.4, last + 0.1], "k-", linewidth=1)
                text = f"{format_measured(row['page_ns'])} ({WIDE_LABELS[row['step']]})"
                _draw_mark(ax, row, (first + last) / 2, mark, text)
            elif row["step"] in LINES and row["step"] != "unexplained":
                y = LINES.index(row["step"]) + mark.below
                _draw_mark(ax, row, y, mark, left=account == "today")
    left = rows[(rows["account"] == "taken apart") & (rows["step"] == "unexplained")]
    for row in left.to_dict("records"):
        mark = MARKS[row["memory"]]
        text = f"{_signed(row['page_ns'])}{' (today more)' if row['page_ns'] < 0 else ''}"
        _draw_mark(ax, row, LINES.index("unexplained") + mark.below, mark, text)
    today = rows[rows["account"] == "today"]
    _name_decades(ax.xaxis, most=5)
    ax.set_xlabel(f"time per 4 KiB page, ns\n(line: {_intervals(today)})")


def _steps_and_sources(parts: list[pd.DataFrame]) -> list[str]:
    """Return the names of the lines, with whose times of today are drawn on each."""
    today = [rows[rows["account"] == "today"].set_index("step")["source"] for rows in parts]
    left, right = (
        {step: found.loc[step].iloc[0] for step in STEPS if step in found} for found in today
    )
    names = []
    for step in LINES[:-2]:
        right_too = f"; right: {right[step]}" * (right[step] != left[step])
        names.append(f"{STEPS[step][0]} ({left[step]}{right_too})")
    return [*names, "unexplained (2016 less today)", "total"]


def _draw_whole(ax: Axes, whole: pd.DataFrame) -> None:
    """Draw whole inflations per page: those that were published, then today's by source."""
    ax.set_xscale("log")
    names = dict(SYSTEMS)
    for source, bulk in BULK.items():
        names |= {(source, name): f"{name}, today" for name in ("pfn", bulk)}
    keys = list(zip(whole["source"], whole["system"], strict=True))
    shown = [key for key in names if key in keys]
    for key, row in zip(keys, whole.to_dict("records"), strict=True):
        if key in names:
            _draw_mark(
                ax, row, shown.index(key), MARKS[row["memory"]], left=row["memory"] != "touched"
            )
    name_bars(ax, [f"{names[key]} ({key[0]})" for key in shown])
    ax.axhline(sum(key[0] == "paper" for key in shown) - 0.5, color="black", linewidth=0.6)
    ax.set_xlim(ax.dataLim.x0 / 3, ax.dataLim.x1 * 3)
    _name_decades(ax.xaxis)
    measured = whole[whole["source"] != "paper"]
    ax.set_xlabel(f"time of the whole inflation per 4 KiB page, ns\n(line: {_intervals(measured)})")
    # The artifact divides by 20 GiB of which 18 move: `published_rates` notes it.
    ax.set_title("Whole inflations: published (2025's rates read 11 % high), and today's")
    above = ax.secondary_xaxis("top", functions=(_rate, _rate))
    _name_decades(above.xaxis, " GiB/s")


def _draw_mark(
    ax: Axes, row: Mapping[Any, Any], y: float, mark: Mark, text: str = "", left: bool = False
) -> None:
    """Draw a time per page on its interval, with its value, or the amount of a negative one."""
    value = abs(row["page_ns"])
    low, high = sorted(abs(row[name]) for name in ("low_ns", "high_ns"))
    if row["low_ns"] < 0 < row["high_ns"]:
        low = NEARLY_ZERO
    ax.plot([low, high], [y, y], "k-", linewidth=1)
    ax.plot(value, y, mark.marker, mfc=mark.fill, mec="black", markersize=5)
    text = text or MINUS * (row["page_ns"] < 0) + format_measured(value)
    x, offset, side = (max(low, value / 2), -5, "right") if left else (high, 5, "left")
    ax.annotate(text, (x, y), (offset, 0), textcoords="offset points", va="center", ha=side, size=7)


def _signed(value: float) -> str:
    return ("+" if value > 0 else MINUS) + format_measured(abs(value))


def _intervals(rows: pd.DataFrame) -> str:
    return " or ".join(sorted(set(rows["interval"])))


def _rate(page_ns: Any) -> Any:
    """Turn ns per page into GiB/s, and back."""
    return 1e9 * PAGE_BYTES / GIB / np.maximum(page_ns, 1e-9)


def _name_decades(axis: Any, unit: str = "", most: int = 12) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(numticks=most))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{format_number(value)}{unit}"))
    axis.set_minor_formatter(NullFormatter())


def _explain(figure: Any) -> None:
    """Put the legend of steps and of marks below all Axes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    looks = STEPS.values()
    handles: list[Any] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="black", label=name)
        for name, colour, hatch in looks
    ]
    handles.append(Patch(**BACKWARDS, label="more than all of 2016"))
    handles += [
        Line2D([], [], ls="", marker=mark.marker, mfc=mark.fill, mec="black", label=mark.label)
        for mark in MARKS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
