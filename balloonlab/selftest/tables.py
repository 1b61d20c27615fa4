"""The tables that the self-tests' commands print: they fit 80 columns, and no cell is cut."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..sizes import format_size
from .benchmark import FORMAT_TASKS, IDLE_TASK, LARGE_TASKS
from .hostile import MUST_BE_ZERO, SESSIONS


def _table(title: str, names: list[str], numbers: list[str]) -> Table:
    """Return a table without rows; numbers stand to the right and are never cut."""
    view = Table(*names, title=title, box=SIMPLE_HEAD, pad_edge=False)
    for heading in numbers:
        view.add_column(heading, justify="right", no_wrap=True)
    return view


def render_fuzz(rows: pd.DataFrame, source: str = "lab") -> Group:
    """Return the tables of ``balloonlab fuzz``: of messages, of blocks, and of front-ends.

    `source` is whose memory the messages were.
    """
    others = rows[rows["protocol"] == SESSIONS]
    view = _table("The back-end against hostile front-ends (lab)", [""], [SESSIONS])
    for row in others.itertuples():
        view.add_row(row.finding, f"{row.count:,.0f}")
    messages = rows[rows["protocol"] != SESSIONS]
    tables = [*_by_protocol(messages, source), _by_policy(messages, source)]
    return Group(*(tables if len(messages) else []), *([view] if len(others) else []))


def _by_protocol(rows: pd.DataFrame, source: str) -> Iterator[Table]:
    """Sum up all policies; a table for each three protocols, without what none of them met."""
    counts = rows.pivot_table("count", "finding", "protocol", aggfunc="sum", sort=False)
    for first in range(0, counts.shape[1], 3):
        part = counts.iloc[:, first : first + 3]
        title = f"The device against a hostile guest ({source})"
        view = _table(title, [""], list(part.columns))
        for finding, row in part[part.any(axis=1) | part.index.isin(MUST_BE_ZERO)].iterrows():
            view.add_row(str(finding), *(f"{count:,.0f}" for count in row))
        yield view


def _by_policy(rows: pd.DataFrame, source: str) -> Table:
    """Return what is judged of each way to discard."""
    counts = rows.pivot_table("count", "discard", "finding", aggfunc="sum", sort=False)
    judged = {
        name: "\n".join(fill(name, 11).split("\n"))
        for name in ("cases", *MUST_BE_ZERO)
        if name in counts
    }
    view = _table(f"By the host's policy, all protocols ({source})", [""], list(judged.values()))
    for policy, row in counts.iterrows():
        view.add_row(str(policy), *(f"{row[name]:,.0f}" for name in judged))
    return view


def render_contents(rows: pd.DataFrame) -> Table:
    """Return the table of ``balloonlab verify``."""
    memory = format_size(int(rows["memory_bytes"].iloc[0]))
    title = f"Every byte of a guest of {memory}, half of it ballooned at random (lab)"
    counted = ["outside\nthe balloon", "of it\nchanged", "ballooned", "of it\nnot 0"]
    view = _table(title, ["", "after"], counted)
    for row in rows.itertuples():
        sizes = (row.kept_bytes, row.changed_bytes, row.ballooned_bytes, row.nonzero_bytes)
        name = f"{row.protocol} by {row.discard}"
        view.add_row(name, row.operation, *(format_size(int(size)) for size in sizes))
    return view


def render_kernels(rows: pd.DataFrame, missing: list[str], large: bool) -> Group:
    """Return the report of ``balloonlab kernels``."""
    title = "Kernels against memory and peers, this machine (lab)"
    view = _table(title, ["task", "contender"], ["ms", "ns", "x reading"])
    apart = rows["task"].isin(FORMAT_TASKS.values())
    for task, group in rows[~apart].groupby("task", sort=False):
        for i, row in enumerate(group.itertuples()):
            name, per_item = str(task) if i == 0 else "", f"{row.ns_per_item:.2f} per {row.item}"
            numbers = f"{row.median_ms:.3g}", per_item, f"{row.ratio:.2f}"
            view.add_row(name, row.contender, *numbers)
        view.add_section()
    lines = [
        "numpy, bitarray and pyroaring make a bitmap only; balloonlab makes the message.",
        "ms, ns: medians of rounds in which all contenders of a task take turns; "
        "x reading: time over that of reading the input once, round by round.",
    ]
    ours = rows[rows["contender"] == "balloonlab"].set_index("task")["ns_per_item"]
    timed = {size: task for size, task in LARGE_TASKS.items() if task in ours.index}
    lines += [
        f"{size} takes {ours[task] / ours[IDLE_TASK]:.2f} times the ns per page of 8GiB."
        for size, task in timed.items()
    ]
    if left_out := ", ".join(size for size in LARGE_TASKS if size not in timed):
        why = "page numbers do not fit the available memory" if large else "--large adds them"
        lines.append(f"Left out, {why}: {left_out}.")
    if missing:
        lines.append(f"Left out, not installed: {', '.join(missing)} (pip install -e '.[test]').")
    views = [view, _formats(rows[apart])] if apart.any() else [view]
    return Group(*views, Text("\n".join(lines)))


def _formats(rows: pd.DataFrame) -> Table:
    """Return the table of every format's kernels, a row per format."""
    heads = [task.replace(", ", ",\n") for task in FORMAT_TASKS.values()]
    view = _table("Every format on 2 M pages, ns per page (lab)", [""], heads)
    times = rows.pivot_table("ns_per_item", "contender", "task", sort=False)
    for name, row in times.iterrows():
        view.add_row(str(name), *(f"{row[task]:.2f}" for task in FORMAT_TASKS.values()))
    return view
