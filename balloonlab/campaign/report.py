"""What ``balloonlab campaign`` prints: the plan with its times, and what a campaign has."""

from __future__ import annotations

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from ..sizes import format_number
from ..terminal import WIDTH
from .plan import NOT_PART
from .running import Campaign
from .start import LIMITS


def _table(title: str, left: list[str], right: list[str]) -> Table:
    view = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for name in left:
        view.add_column(name)
    for name in right:
        view.add_column(name, justify="right", no_wrap=True)
    return view


def _number(value: float) -> str:
    return "unknown" if pd.isna(value) else format_number(value, 2)


def render_plan(table: pd.DataFrame) -> Group:
    """Return the plan, how long it takes as far as that is known, and what is no part of it."""
    view = _table("The plan", ["folder", "what"], ["starts", "s a start", "minutes"])
    for row in table.itertuples():
        times = (_number(row.seconds), _number(row.minutes))
        view.add_row(str(row.folder), str(row.what), str(row.starts), *times)
    known = table["minutes"].notna()
    text = f"{int(table['starts'].sum())} starts of {len(table)} folders"
    text += f", {format_number(table['minutes'].sum(), 2)} minutes in all"
    missing = ", ".join(table.loc[~known, "folder"])
    text += f" without {missing}, of which nothing is known." if missing else "."
    text += " Times are those of starts that were measured before, here or in the shipped campaign."
    lines = [text, "No part of it:", *(f"  {name}: {why}" for name, why in NOT_PART.items())]
    return Group(view, Constrain(Text("\n".join(lines)), WIDTH))


def render(done: Campaign) -> Group:
    """Return the folders of a campaign, their problems, and the drift."""
    view = _table("The campaign", ["folder"], ["starts", "whole", "noisy", "minutes"])
    for row in done.rows.itertuples():
        counts = (str(row.starts), str(row.whole), str(row.noisy or ""))
        view.add_row(str(row.folder), *counts, format_number(row.minutes, 2))
    lines = [
        f"{row.folder} is not there: {row.problem}" for row in done.rows.itertuples() if row.problem
    ]
    if done.rows["noisy"].any():
        limits = ", ".join(f"{name} {most:g}" for name, most in LIMITS.items())
        lines.append(
            f"Noisy: beyond {limits} (processors at the work of others). The same command measures "
            "these starts again; until then they are in the folders as they are."
        )
    for row in done.drift:
        lines.append(f"Drift of the reference, {row['protocol']}: {_drift(row)}.")
    return Group(view, Constrain(Text("\n".join(lines)), WIDTH))


def _drift(row: dict[str, float | None]) -> str:
    median, least, greatest = (
        format_number(float(row[f"{end}_ms"] or 0), 2) for end in ("median", "least", "greatest")
    )
    text = f"{row['n']} starts, median {median} ms, {least} to {greatest}"
    if (spread := row["spread_percent"]) is not None:
        text += f", standard deviation {format_number(spread, 2)} %"
    if row["percent_per_hour"] is not None:
        text += (
            f", trend {row['percent_per_hour']:+.1f} % an hour ({row['low']:+.1f} to "
            f"{row['high']:+.1f})"
        )
    return text
