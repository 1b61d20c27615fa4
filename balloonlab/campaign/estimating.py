"""How long a row takes: from starts that were measured before, else from its shipped repeats."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from .. import datasets
from ..measurement.reading import META, TIMINGS, load
from ..measurement.run import repeat_totals
from ..sizes import GIB, PAGE_BYTES, parse_pages
from .plan import Row
from .start import MARK

PROCESS_S = 4.0
"""Of a process until it measures: Python, numba, compiled code from its cache."""

CASE_S = {"lab": 0.15, "kvm": 0.4, "qemu": 1.0, "linux": 4.0}
"""Of a case besides its time: allocators, checks, a virtual machine, a boot; by source."""

TOUCH_S, FIRST_S = 0.4, 1.5
"""Of touching and checking a GiB, and more the first time that a process does: the machine has
given the memory back to its own host meanwhile."""

GROUP = ["source", "backing", "memory_bytes", "thp"]
"""Columns of cases that share their memory."""


def seconds_of(row: Row, quick: bool, folder: Path | None = None) -> float | None:
    """Estimate how long a start of a row takes in s; None where nothing is known.

    From starts in `folder` (of a campaign), from the shipped campaign, or from shipped repeats,
    which takes a few seconds for all rows.
    """
    marks = list((folder / "starts" / row.name).glob(f"*/{MARK}")) if folder else []
    stored = [json.loads(path.read_text())["seconds"] for path in marks]
    if stored:
        return float(median(stored))
    if quick:
        return None
    try:
        shipped = datasets.path(row.name)
    except FileNotFoundError:
        return None
    meta = json.loads((shipped / META).read_text())
    known = [one["seconds"] for one in meta.get("sessions", []) if "seconds" in one]
    if known:
        return float(median(known))
    if not (shipped / TIMINGS).exists():
        return None
    return _from_repeats(*_of_sizes(load(shipped).frame, row.arguments.get("memory")))


def _of_sizes(frame: pd.DataFrame, memory: Any) -> tuple[pd.DataFrame, float]:
    """Return the cases of the sizes that are measured, else all, and by what to scale them."""
    sizes = memory if isinstance(memory, list) else [memory]
    wanted = {parse_pages(one, "memory") * PAGE_BYTES for one in sizes if one is not None}
    there = frame["memory_bytes"]
    if there.isin(wanted).any():
        return frame[there.isin(wanted)], 1.0
    return frame, max(wanted) / float(there.max()) if wanted else 1.0


def _from_repeats(frame: pd.DataFrame, scale: float) -> float:
    """Add up one repeat of each case, a warm-up of each way, and what is around them."""
    cases = frame.drop_duplicates("run_id").set_index("run_id")
    medians = scale * repeat_totals(frame).groupby("run_id").median() / 1e9
    touched_gib = scale * (cases["memory_bytes"] * cases["touched"]) / GIB
    fresh = cases["source"].isin(["qemu", "linux"])  # a process for each repeat
    touch_s = fresh.map({True: FIRST_S, False: TOUCH_S})
    around = cases["source"].map(CASE_S) + touch_s * touched_gib
    each = medians + around
    warm = each.where(cases["source"] != "linux", CASE_S["linux"])  # a small guest's
    ways = cases.assign(warm=warm).groupby(["source", "protocol", "discard", "backing"])["warm"]
    first = cases.assign(gib=touched_gib)[~fresh].groupby(GROUP)["gib"].max().sum() * FIRST_S
    return float(PROCESS_S + each.sum() + ways.mean().sum() + first)


def plan_table(rows: list[Row], quick: bool, folder: Path | None = None) -> pd.DataFrame:
    """Return the plan: a row per folder, how many starts, and how long they take.

    ``folder``, ``what``, ``function``, ``starts``, ``seconds`` of a start and ``minutes`` of all;
    NaN where nothing is known.
    """
    found: list[dict[str, Any]] = []
    for row in rows:
        n, seconds = row.starts_of(quick), seconds_of(row, quick, folder)
        found.append({"folder": row.name, "what": row.what, "function": row.function, "starts": n})
        found[-1] |= {"seconds": seconds, "minutes": None if seconds is None else n * seconds / 60}
    table = pd.DataFrame(found)
    return table.astype({"seconds": float, "minutes": float})
