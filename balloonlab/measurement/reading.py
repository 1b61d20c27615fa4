"""Stored runs, read back: what is whole counts, what is not is named and dropped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from .run import Run
from .setups import parts_of
from .tables import (
    CHECK_COLUMNS,
    COLUMNS,
    DTYPES,
    QEMU_CHECK_COLUMNS,
    SKIPPED_COLUMNS,
    empty,
    stack,
)

TIMINGS, META, CHECKS, SKIPPED = "timings.csv", "meta.json", "checks.csv", "skipped.csv"

MACHINE = ("cpu_model", "cpu_count", "machine", "kernel", "thp", "compiled", "commit", "kernels")
VERSIONS = ("balloonlab", "numba", "llvmlite", "numpy")
"""What runs must agree in to stand in one frame: the processor, the kernel that discards, its
huge page setting, and the code that is timed, of which the digest of the kernels says more than
the commit, and that more than the version. Runs in QEMU must agree in its version, too. Python and
pandas do not run while time is taken, and how much memory there is decides what fits, not how
long it takes."""

KEY = ["run_id", "repeat"]
SHOWN = 5
"""Dropped repeats that are named one by one."""

log = logging.getLogger(__name__)


def check_alike(runs: Mapping[str, dict[str, Any]], remedy: str) -> None:
    """Refuse runs that differ in `MACHINE` or `VERSIONS`.

    Parameters
    ----------
    runs : mapping of str to dict
        What to call each run, and its metadata.
    remedy : str
        What to do about it, for the message.

    Raises
    ------
    ValueError
        Naming all that differs between two of them.
    """
    for (first, one), (second, other) in combinations(runs.items(), 2):
        pairs = [(name, one.get(name), other.get(name)) for name in MACHINE]
        versions = one.get("versions", {}), other.get("versions", {})
        pairs += [(name, *(numbers.get(name) for numbers in versions)) for name in VERSIONS]
        if "qemu" in one and "qemu" in other:
            pairs.append(("qemu", one["qemu"], other["qemu"]))
        unlike = [f"{name} ({a}, {b})" for name, a, b in pairs if a != b]
        if unlike:
            raise ValueError(
                f"{first} and {second} are unlike in {', '.join(unlike)}, and times of unlike "
                f"machines or code do not belong into one frame: {remedy}"
            )


def load(folder: str | os.PathLike[str]) -> Run:
    """Read a stored run, finished or not, with the types that it was measured with.

    Parameters
    ----------
    folder : path-like
        What ``out=`` was.

    Returns
    -------
    Run
        Every whole repeat. One that is not is left out and named in the log: each must have all
        its stages once, which sum to its wall time, and one row of checks.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        A file is damaged, which is named, or the run was carried on by unlike machines.
    """
    path = Path(folder)
    if not (path / TIMINGS).is_file() or not (path / META).is_file():
        raise FileNotFoundError(f"{path} holds no run: it must contain {TIMINGS} and {META}")
    if not (path / TIMINGS).stat().st_size:
        raise ValueError(f"{path / TIMINGS} is empty: no repeat was finished")
    meta = read_meta(path)
    sessions = {f"{path} from {one.get('utc_time')}": one for one in meta.get("sessions", [])}
    check_alike(sessions, "measure it again in another folder")
    return read_run(path, meta).measured()


def pool(folders: Iterable[str | os.PathLike[str]]) -> Run:
    """Read several stored runs into one frame; refuses runs that do not compare.

    Parameters
    ----------
    folders : iterable of path-like
        What ``out=`` was, of each.

    Returns
    -------
    Run
        ``meta`` holds what the runs agree in, and the metadata of each as ``pooled``.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load`; no folders, a run and its copy, or runs of unlike machines or code.

    Examples
    --------
    >>> run = pool(["sweep-small", "sweep-large"])  # doctest: +SKIP
    """
    if isinstance(folders, str | os.PathLike):
        raise TypeError(f"folders must be a list of folders, got one: load({str(folders)!r})")
    runs = {str(folder): load(folder) for folder in folders}
    if not runs:
        raise ValueError("folders must hold at least one folder, got none")
    metas = {name: run.meta for name, run in runs.items()}
    check_alike(metas, "load and analyse them apart")
    seen: dict[str, str] = {}
    for name, run in runs.items():
        for run_id in run.frame["run_id"].unique():
            if run_id in seen:
                raise ValueError(f"{seen[run_id]} and {name} hold the same run, {run_id}")
            seen[run_id] = name
    first = next(iter(metas.values()))
    common = {
        key: first[key]
        for key in first
        if all(meta.get(key) == first[key] for meta in metas.values())
    }
    tables = zip(*((run.frame, run.checks, run.skipped) for run in runs.values()), strict=True)
    frame, checks, skipped = (stack(list(parts)) for parts in tables)
    return Run(frame, {**common, "pooled": list(metas.values())}, checks, skipped)


def read_meta(folder: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Read ``meta.json``.

    Raises
    ------
    ValueError
        It is no JSON object, or lacks what every run has or what is `required`; names the file.
    """
    path = folder / META
    try:
        meta = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error})") from None
    if not isinstance(meta, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {json.dumps(meta)[:40]}")
    lacking = [name for name in required if name not in meta]
    for name, kind in (("arguments", dict), ("sessions", list), ("versions", dict)):
        if name in meta and not isinstance(meta[name], kind):
            lacking.append(name)
    if not all(isinstance(one, dict) for one in meta.get("sessions") or ()):
        lacking.append("sessions")
    if lacking:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(dict.fromkeys(lacking))}")
    return meta


def read_run(folder: Path, meta: dict[str, Any]) -> Run:
    """Read the repeats that are whole; those that are not are named in the log."""
    frame = _read(folder / TIMINGS, COLUMNS)
    checks = _read(folder / CHECKS, CHECK_COLUMNS, QEMU_CHECK_COLUMNS)
    bad = _defects(frame, checks)
    if bad:
        shown = [f"{run_id} repeat {n} ({why})" for (run_id, n), why in bad.items()][:SHOWN]
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        log.warning(
            "%s: %d repeats are not whole and do not count: %s%s",
            folder, len(bad), ", ".join(shown), more,
        )  # fmt: skip
    tables = [
        table.loc[[key not in bad for key in zip(table["run_id"], table["repeat"], strict=True)]]
        for table in (frame, checks)
    ]
    frame, checks = (table.reset_index(drop=True) for table in tables)
    return Run(frame, meta, checks, _read(folder / SKIPPED, SKIPPED_COLUMNS))


def _defects(frame: pd.DataFrame, checks: pd.DataFrame) -> dict[tuple[str, int], str]:
    """Return what is wrong with each repeat that is not whole."""
    bad: dict[tuple[str, int], str] = {}
    checked = checks.set_index(KEY)["wall_ns"].groupby(level=KEY).agg(["size", "first"])
    timed = dict(list(frame.groupby(KEY, sort=False)))
    for key, (n_rows, wall_ns) in zip(checked.index, checked.to_numpy(), strict=True):
        if n_rows != 1:
            bad[key] = "checked twice"
        elif key not in timed:
            bad[key] = "its times are missing"
        elif why := _defect(timed[key], wall_ns):
            bad[key] = why
    bad |= {key: "its checks are missing" for key in timed if key not in checked.index}
    return bad


def _defect(rows: pd.DataFrame, wall_ns: int) -> str:
    first = rows.iloc[0]
    parts = list(zip(rows["stage"], rows["part"], strict=True))
    expected, signed = parts_of(first["source"], first["protocol"], first["operation"])
    if sorted(parts) != sorted(expected):
        return "stages are missing or there twice"
    if not signed and (rows["time_ns"] < 0).any():
        return "a time is negative"
    return "" if rows["time_ns"].sum() == wall_ns else "times do not sum to the wall time"


def _read(path: Path, columns: list[str], more: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table up to its last whole line; one without rows where there is no file.

    Raises
    ------
    ValueError
        Naming the file and what is wrong in it: a column that is missing, a cell.
    """
    try:
        text = path.read_bytes().decode() if path.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is no text ({error})") from None
    text = text[: text.rfind("\n") + 1]
    if not text:
        return empty(columns)
    header = text.partition("\n")[0].split(",")
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    try:
        raw = pd.read_csv(StringIO(text), dtype=str, na_filter=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    kept = [*columns, *(name for name in more if name in header)]
    return pd.DataFrame({name: _typed(path, raw[name]) for name in kept})


def _typed(path: Path, cells: pd.Series) -> pd.Series:
    """Return a column of text as its type; the first cell that is no such thing is named."""
    kind = DTYPES[str(cells.name)]
    if kind is str:
        return cells
    if kind is bool:
        valid = cells.isin(["True", "False"])
        typed = cells == "True"
    else:
        blank = (cells == "") & (cells.name in _SPARSE)
        valid = blank | cells.str.fullmatch(r"-?\d{1,18}(\.0)?")
        numbers = pd.to_numeric(cells, errors="coerce")
        typed = numbers if numbers.isna().any() else numbers.astype(kind)
    if not valid.all():
        row = int((~valid).to_numpy().argmax())
        raise ValueError(
            f"{path} is damaged: row {row + 2}, column {cells.name} holds {cells.iloc[row]!r}, no "
            f"{'whole number' if kind is not bool else 'True or False'}"
        )
    return typed


_SPARSE = frozenset(QEMU_CHECK_COLUMNS)
"""Columns that are blank for repeats in the lab that stand beside those in QEMU."""
