"""The starts of a row below each other: a folder as one call of its function would have written.

A column ``start`` tells starts apart, ``repeat`` is unique over them. The ``run_id`` of a case is
the same in all, so whatever reads a run reads this one, and statistics over starts find their unit.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..measurement.fleet import machine_name
from ..measurement.reading import META, TIMINGS, check_alike, load, read_meta
from ..measurement.run import Run
from ..measurement.store import Store
from ..measurement.tables import CHECK_COLUMNS, empty, stack
from .start import Stored

NESTED = "measured"
"""Where a table's folder keeps runs of its own."""


class UnlikeStartsError(ValueError):
    """Starts that lack cases which others have; `numbers` are theirs."""

    def __init__(self, message: str, numbers: list[int]) -> None:
        super().__init__(message)
        self.numbers = numbers


def join(starts: Mapping[int, Stored], folder: Path, meta: Mapping[str, Any]) -> None:
    """Write what several starts of a row measured into one folder, replacing it.

    `meta` is metadata besides. A ValueError where starts are of unlike machines or code;
    `UnlikeStartsError` where some have other cases.
    """
    folders = {number: one.folder for number, one in starts.items()}
    sessions = {number: _session(number, one) for number, one in starts.items()}
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _join_folders(folders, part, {**meta, "sessions": [*sessions.values()]})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _session(number: int, start: Stored) -> dict[str, Any]:
    """Return what a start was measured on, and what else went on meanwhile."""
    meta = read_meta(start.folder)
    machine = (meta.get("sessions") or [meta])[-1]
    kept = {name: machine[name] for name in machine if name not in ("arguments", "sessions")}
    return kept | {"start": number, "seconds": start.mark["seconds"], **start.mark["noise"]}


def _join_folders(folders: Mapping[int, Path], out: Path, meta: dict[str, Any]) -> None:
    metas = {number: read_meta(folder) for number, folder in folders.items()}
    named = {f"start {number} ({machine_name(one)})": one for number, one in metas.items()}
    check_alike(named, "measure all of them again, into another folder")
    whole = _common([*metas.values()]) | {"starts": len(folders)} | meta
    store, any_folder = Store(out), next(iter(folders.values()))
    if (any_folder / TIMINGS).exists():
        store.write_run(_join_runs({number: load(one) for number, one in folders.items()}))
    else:
        for table in sorted(any_folder.glob("*.csv")):
            tables = {number: one / table.name for number, one in folders.items()}
            store.write(_join_tables(tables), table.name)
        for nested in sorted((any_folder / NESTED).glob("*")):
            inner = {number: one / NESTED / nested.name for number, one in folders.items()}
            _join_folders(inner, out / NESTED / nested.name, meta)
    store.write_meta(whole)


def _common(metas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what metadata agree in, and when the first is of; what does not is in the sessions."""
    first, *others = metas
    common = {k: v for k, v in first.items() if all(one.get(k) == v for one in others)}
    around = [one.get("surroundings", {}) for one in metas]
    alike = {k: v for k, v in around[0].items() if all(one.get(k) == v for one in around)}
    return common | {"utc_time": first["utc_time"], "surroundings": alike}


def _join_runs(runs: Mapping[int, Run]) -> Run:
    """Return runs of the same cases as one, repeats numbered over all of them."""
    cases = {number: set(run.frame["run_id"]) for number, run in runs.items()}
    every = set().union(*cases.values())
    lacking = [number for number, there in cases.items() if there != every]
    if lacking:
        raise UnlikeStartsError(
            f"starts {', '.join(map(str, lacking))} lack cases that others have: the same command "
            "measures them again",
            lacking,
        )
    shift = 1 + max(int(run.frame["repeat"].max()) for run in runs.values())
    tables: dict[str, list[pd.DataFrame]] = {"frame": [], "checks": []}
    for place, run in enumerate(runs.values()):
        for name, parts in tables.items():
            table = getattr(run, name)
            parts.append(table.assign(repeat=table["repeat"] + place * shift))
    frame, checks = map(stack, tables.values())
    ids = dict.fromkeys(frame["run_id"])  # rows of a case follow each other
    places = {run_id: place for place, run_id in enumerate(ids)}
    frame, checks = (
        table.sort_values("run_id", key=lambda column: column.map(places), kind="stable")
        for table in (frame, checks if len(checks) else empty(CHECK_COLUMNS))
    )
    skipped = stack([run.skipped for run in runs.values()]).drop_duplicates("run_id")
    return Run(frame, {}, checks, skipped)


def _join_tables(paths: Mapping[int, Path]) -> pd.DataFrame:
    """Return tables below each other with their ``start``, cells as they are written.

    The table of the only start is returned as it is.
    """
    tables = {number: pd.read_csv(one, dtype=str, na_filter=False) for number, one in paths.items()}
    if len(tables) == 1:
        return next(iter(tables.values()))
    if "repeat" in next(iter(tables.values())):
        repeats = {number: table["repeat"].astype(int) for number, table in tables.items()}
        shift = 1 + max(int(column.max()) for column in repeats.values())
        for place, (number, column) in enumerate(repeats.items()):
            tables[number]["repeat"] = column + place * shift
    for number, table in tables.items():
        place = list(table).index("repeat") if "repeat" in table else len(table.columns)
        table.insert(place, "start", number)
    return pd.concat(tables.values(), ignore_index=True)


def joined_id(folder: Path) -> str | None:
    """Return the campaign that a folder was joined by; None where there is no folder.

    Empty where another command wrote it, or nobody knows which.
    """
    if not folder.exists():
        return None
    if not (folder / META).is_file():
        return ""
    return str(read_meta(folder).get("campaign", {}).get("id", ""))
