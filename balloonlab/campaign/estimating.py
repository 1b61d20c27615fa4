"""How long a row takes: from starts that were measured before, here or in the shipped campaign."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from .. import datasets
from ..measurement.reading import META
from .plan import Row
from .start import MARK


def seconds_of(row: Row, quick: bool, folder: Path | None = None) -> float | None:
    """Estimate how long a start of a row takes in s; None where nothing is known.

    From starts in `folder` (of a campaign), else from the shipped campaign.
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
    sessions = json.loads((shipped / META).read_text()).get("sessions", [])
    known = [one["seconds"] for one in sessions if "seconds" in one]
    return float(median(known)) if known else None


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
