"""The reports that the commands print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from ..measurement.estimates import Estimate
from ..measurement.on_lab import FLOOR
from ..measurement.tables import STEPS
from ..sizes import PAGE_BYTES, format_measured, format_number, format_size
from ..terminal import WIDTH
from .reproduction import (
    PAPER,
    PROTOCOLS,
    STAGE_LABELS,
    STATES,
    Reproduction,
    lab_beside,
    sizes_of,
)

PAPER_STAGES = ("allocate", "send", "translate", "discard")
OTHERS = {"kvm": "KVM", "qemu": "QEMU", "linux": "User-Mode Linux"}
"""What is measured at sources other than the lab; the metadata says which."""

MOST_COLUMNS = 5
"""Columns of values of a table that fits 80 columns."""


def _cell(row: str, value: float, exact: bool) -> str:
    if math.isnan(value):
        return "-"
    if row in ("kicks", "madvise calls"):
        return f"{value:,.0f}"
    if row == "wire bytes":
        return format_size(int(value))
    text = format_number(value) if exact else format_measured(value)
    return f"{text}x" if row == "speed-up" else text


def readable(table: Reproduction | pd.DataFrame) -> pd.DataFrame:
    """Return a reproduction's table as text: what was measured to two digits.

    Parameters
    ----------
    table : Reproduction or pandas.DataFrame
        A reproduction, or columns of `Reproduction.table`; TypeError if it is neither.
    """
    if isinstance(table, Reproduction):
        table = table.table()
    if not isinstance(table, pd.DataFrame) or "total, ms" not in table.index:
        kind = type(table).__name__
        raise TypeError(f"table must be a reproduction or its table(), got another {kind}")
    columns = {
        name: [_cell(row, value, name[0] == PAPER) for row, value in column.items()]
        for name, column in table.items()
    }
    return pd.DataFrame(columns, index=table.index)


def _view(title: str, columns: Iterable[tuple[str, ...]]) -> Table:
    """Return an empty table for the terminal: a column for the rows' names, then these."""
    view = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    view.add_column("", no_wrap=True)
    for column in columns:
        view.add_column("\n".join(column), justify="right", no_wrap=True)
    return view


def render_tables(table: pd.DataFrame, state: str, unit: str) -> Iterator[Table]:
    """Yield `Reproduction.table` for the terminal: paper and one state of memory, 80 wide each."""
    parts: list[list[tuple[str, str]]] = [[]]
    for source in dict.fromkeys(group for group, _ in table):
        if source == PAPER or source.endswith(f", {state}"):
            columns = [name for name in table if name[0] == source]
            if len(parts[-1]) + len(columns) > MOST_COLUMNS:
                parts.append([])
            parts[-1] += columns
    for columns in parts:
        title = f"Inflating, {state} memory: {unit} with the median total"
        view = _view(title, [(group.split(", ")[0], protocol) for group, protocol in columns])
        for row, cells in readable(table[columns]).iterrows():
            total = row == "total, ms"
            view.add_row(row, *cells, style="bold" if total else None, end_section=total)
        yield view


def render_ranges(result: Reproduction, touched: bool) -> Table:
    """Return the range of the repeats of a run, stage by stage, in one state of memory."""
    ranges = result.ranges().xs(touched, level=1)
    title = f"Least to greatest of the {result.kind}, {STATES[touched]} memory"
    view = _view(title, ranges.index)
    for stage in ranges.columns.unique(level=0):
        ends = zip(ranges[stage]["least"], ranges[stage]["greatest"], strict=True)
        texts = ["-" if least != least else _span(least, most) for least, most in ends]
        view.add_row(STAGE_LABELS.get(stage, f"{stage}, ms"), *texts)
    return view


def _span(least: float, greatest: float) -> str:
    return f"{format_measured(least)} to {format_measured(greatest)}"


def _with_ends(found: Estimate, unit: str) -> str:
    low, value, high = (format_measured(one, unit) for one in (found.low, found.value, found.high))
    return f"{value} {unit}" + ("" if low == value == high else f" ({low} to {high})")


def _times(meta: dict[str, Any]) -> str:
    """Return how often each case was measured."""
    if (n := meta.get("starts", 1)) > 1:
        return f"{n} process starts"
    return f"{meta['arguments']['repeats']} repeats"


def findings(result: Reproduction) -> list[str]:
    """Return what the run showed, one sentence per line; numbers are of the run's own source."""
    arguments = result.meta["arguments"]
    source, bulk = result.source, PROTOCOLS[result.source][1]
    other = f"{OTHERS[source]} {result.meta[source]}, " if source in OTHERS else ""
    memory, balloon = (format_size(arguments[f"{of}_bytes"]) for of in ("memory", "balloon"))
    lines = [
        f"Guest of {memory}, balloon of {balloon}, {_times(result.meta)} after a "
        f"warm-up, no huge pages; {other}{result.meta['cpu_model']}, {result.meta['kernel']}. "
        "The paper's guest: 8 GiB, balloon of 7 GiB."
    ]
    if larger := result.meta["scaled_down_from_bytes"]:
        lines.append(
            f"SCALED DOWN from {format_size(larger)}: less memory is available here, so totals do "
            "not compare with the paper's."
        )
    intervals = []
    for touched, state in STATES.items():
        if ratio := result.ratio("pfn", bulk, touched):
            percent = result.shares("pfn", touched)
            shares = ", ".join(
                f"{stage} {_with_ends(percent[stage], '%')}" for stage in PAPER_STAGES
            )
            lines.append(
                f"{source}, {state}: pfn takes {_with_ends(ratio, 'times')} as long as {bulk}; "
                f"its time is {shares}."
            )
            intervals.append(ratio.interval)
    if ratio := result.ratio("bitmap-v4", FLOOR, True):
        over = f"{_with_ends(ratio, 'times')} one madvise over the same bytes"
        lines.append(f"{source}, touched: bitmap-v4 takes {over}.")
    if intervals:
        lines.append(f"In brackets: {', '.join(dict.fromkeys(intervals))}.")
    return lines + _memory_findings(result)


def _memory_findings(result: Reproduction) -> list[str]:
    touched = result.checks[result.checks["touched"].astype(bool)]
    if touched.empty:
        return []
    falls = 100 * touched["rss_fall_bytes"] / (touched["balloon_pages"] * PAGE_BYTES)
    kernel = "QEMU's pagemap" if result.source == "qemu" else "mincore"
    what = "the guest's file in memory" if result.source == "linux" else "RSS"
    return [
        f"{result.source}, touched: {what} fell by {falls.min():.2f} to {falls.max():.2f} % of the "
        f"balloon in {len(touched)} repeats; {kernel} finds no ballooned page backed; "
        f"{touched['lost_pages'].sum()} pages outside the balloon lost their contents."
    ]


def render(result: Reproduction) -> Group:
    """Return the whole report: tables fit 80 columns, notes wrap at the console's width or 100."""
    note = (
        "paper: an idle guest; kicks, wire bytes and madvise calls follow from the format (256 "
        "PFNs per kick, one madvise per page); bitmap-v4 was not broken down."
    )
    table, lines, unit = result.table(), [*findings(result), note], result.kind[:-1]
    views = [view for state in STATES.values() for view in render_tables(table, state, unit)]
    if result.source in _NOTES:
        lines += [*_NOTES[result.source](result), _lab_note(result)]
    measured = set(result.frame["touched"])
    views += [render_ranges(result, touched) for touched in STATES if touched in measured]
    return Group(*views, Constrain(Text("\n".join(lines)), WIDTH))


def _qemu_notes(result: Reproduction) -> list[str]:
    """Return what a reader of QEMU's stages must know."""
    return [
        "qemu: an unmodified QEMU, kicked over a socket. Its send, translate and discard are "
        "differences (rehearsed round trips and processor time), so a stage can come out below "
        "zero.",
        "qemu: madvise calls follow from QEMU's source; they are not counted in it.",
    ]


def _linux_notes(result: Reproduction) -> list[str]:
    """Return what a reader of the stages of Linux's driver must know."""
    hinting = result.frame.query("protocol == 'hinting'")
    notes = [
        "linux: the unmodified driver of Linux in User-Mode Linux, at balloonlab's device over "
        "vhost-user; its memory is a shared file, in which a discard makes a hole. A repeat is a "
        "boot.",
        f"linux: the driver logs nothing. Steps of {STEPS[0]} to {STEPS[-1]} pages split its time: "
        "allocate is their slope (allocate, list and write a page) times the pages; the rest is in "
        "send, which can come out below zero.",
    ]
    if len(hinting):
        shares = 100 * hinting["balloon_bytes"] / sizes_of(result.frame)[1]
        notes.append(
            "linux: asked for hints, the guest sends all its free blocks of 4 MiB, so its other "
            f"memory is filled first; what came is {shares.min():.2f} to {shares.max():.2f} % of "
            "the balloon (n_pages); GiB/s and speed-up are of that. Taking the blocks is in send."
        )
    return [*notes, "paper: we know of nobody who had touched that guest's memory before."]


def _kvm_notes(result: Reproduction) -> list[str]:
    """Return what only a virtual machine shows: its exits, its wake-ups, its page tables."""
    checks = result.checks[result.checks["protocol"] != FLOOR]
    us = {name: _quartiles_us(checks, name) for name in ("exit", "awake", "answer")}
    mapped, unmapped = (
        f"{format_measured(checks[f'{name}_discard_q2_ns'].median())} ns"
        for name in ("mapped", "unmapped")
    )
    return [
        "kvm: balloonlab's driver in a virtual processor of this process. A kick is a VM exit that "
        "KVM sees to; to wait, the driver leaves the virtual machine for this process, one exit "
        "more than where the kernel halts it.",
        f"kvm: an exit and back takes {us['exit']}, kick to host awake {us['awake']}, answer to "
        f"driver running {us['answer']} (medians of the repeats' quartiles); {_exits(checks)}.",
        f"kvm: madvise of a page takes {mapped} where the guest has it mapped, "
        f"{unmapped} where only the host has (rehearsed, medians).",
    ]


def _quartiles_us(checks: pd.DataFrame, name: str) -> str:
    low, middle, high = (checks[f"{name}_q{n}_ns"].median() / 1e3 for n in (1, 2, 3))
    return f"{format_measured(middle)} us ({_span(low, high)})"


def _exits(checks: pd.DataFrame) -> str:
    waits, left = (int(checks[name].sum()) for name in ("n_waits", "n_exits"))
    return (
        f"the driver waited {waits:,} times and returned {left - waits:,} times, in {left:,} exits"
    )


_NOTES = {"kvm": _kvm_notes, "qemu": _qemu_notes, "linux": _linux_notes}


def _lab_note(result: Reproduction) -> str:
    """Return what the lab's columns beside others' are, or why there are none."""
    shipped, lab = "the run that comes with balloonlab", lab_beside(result.frame)
    if lab is None:
        why = f"because {shipped} has other sizes than this one (8 GiB, balloon of 7 GiB)"
        return f"lab: no columns, {why}."
    about = ", ".join((lab.meta["utc_time"][:10], lab.meta["cpu_model"], lab.meta["kernel"]))
    return f"lab: {shipped} ({about})."
