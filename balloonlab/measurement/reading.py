"""Stored runs, read back: what is whole counts, what is not is named and dropped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from io import StringIO
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import tables
from .options import PathLike
from .run import Run
from .setups import parts_of

TIMINGS, META, CHECKS, SKIPPED = "timings.csv", "meta.json", "checks.csv", "skipped.csv"

MACHINE = ("cpu_model", "cpu_count", "machine", "kernel", "thp", "compiled", "commit", "kernels")
VERSIONS = ("balloonlab", "numba", "llvmlite", "numpy")
"""What runs must agree in to stand in one frame: the processor, the kernel that discards, its
huge page setting, and the code that is timed, of which the digest of the kernels says more than
the commit, and that more than the version. Runs in QEMU must agree in its version, too,
those in KVM in its module. Python and pandas do not run while time is taken, and how much memory
there is decides what fits, not how long it takes."""

KEY = ["run_id", "repeat"]
KIND = ["source", "protocol", "operation"]  # what a repeat's stages depend on
SHOWN = 5  # dropped repeats that are named one by one

log = logging.getLogger(__name__)


def check_alike(runs: Mapping[str, dict[str, Any]], remedy: str) -> None:
    """Refuse metadata that differ in `MACHINE` or `VERSIONS` (ValueError, naming all that does).

    `runs` has them by what to call each run; `remedy` is what to do about it, for the message.
    """
    for (first, one), (second, other) in combinations(runs.items(), 2):
        here, there = _compared(one), _compared(other)
        both = [name for name in here if name in there]
        unlike = [f"{n} ({here[n]}, {there[n]})" for n in both if here[n] != there[n]]
        if unlike:
            raise ValueError(
                f"{first} and {second} are unlike in {', '.join(unlike)}, and times of unlike "
                f"machines or code do not belong into one frame: {remedy}"
            )


def _compared(meta: dict[str, Any]) -> dict[str, Any]:
    versions = meta.get("versions", {})
    compared = {name: meta.get(name) for name in MACHINE}
    compared |= {name: versions.get(name) for name in VERSIONS}
    return compared | {name: meta[name] for name in ("qemu", "kvm") if name in meta}


def load(folder: PathLike) -> Run:
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
    FileNotFoundError, ValueError
        The folder holds no run; a file is damaged, which is named, or unlike machines went on.

    Examples
    --------
    >>> import balloonlab as bl
    >>> sorted(load(bl.datasets.path("runs")).frame["protocol"].unique())
    ['bitmap-v4', 'pfn']
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


def pool(folders: Iterable[PathLike | Run]) -> Run:
    """Read several stored runs into one frame; refuses runs that do not compare.

    Parameters
    ----------
    folders : iterable of path-like or Run
        What ``out=`` was, of each; or runs in memory.

    Returns
    -------
    Run
        ``meta`` holds what the runs agree in, and the metadata of each as ``pooled``.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As `load`; no folders, a run and its copy, or runs of unlike machines or code.
    """
    if isinstance(folders, str | os.PathLike):
        raise TypeError(f"folders must be a list of folders, got one: load({str(folders)!r})")
    runs = dict(
        (f"run {n}", one) if isinstance(one, Run) else (str(one), load(one))
        for n, one in enumerate(folders, 1)
    )
    if not runs:
        raise ValueError("folders must hold at least one folder, got none")
    check_alike({name: run.meta for name, run in runs.items()}, "load and analyse them apart")
    seen: dict[str, str] = {}
    for name, run in runs.items():
        for run_id in run.frame["run_id"].unique():
            if seen.setdefault(run_id, name) != name:
                raise ValueError(f"{seen[run_id]} and {name} hold the same run, {run_id}")
    first, *others = metas = [run.meta for run in runs.values()]
    common = {k: v for k, v in first.items() if all(meta.get(k) == v for meta in others)}
    frame, checks, skipped = (
        tables.stack([getattr(run, table) for run in runs.values()])
        for table in ("frame", "checks", "skipped")
    )
    return Run(frame, {**common, "pooled": metas}, checks, skipped)


def read_meta(folder: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Read ``meta.json``; a ValueError names what is wrong in it or missing of the `required`."""
    path = folder / META
    try:
        meta = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error})") from None
    if not isinstance(meta, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {json.dumps(meta)[:40]}")
    lacking = [name for name in required if name not in meta]
    lacking += [n for n in ("arguments", "versions") if not isinstance(meta.get(n, {}), dict)]
    sessions = meta.get("sessions", [])
    if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
        lacking.append("sessions")
    if lacking:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(lacking)}")
    return meta


def read_run(folder: Path, meta: dict[str, Any]) -> Run:
    """Read the repeats that are whole; those that are not are named in the log."""
    frame = _read(folder / TIMINGS, tables.COLUMNS)
    checks = _read(folder / CHECKS, tables.CHECK_COLUMNS, chain(*tables.OWN_CHECKS.values()))
    bad = _defects(frame, checks)
    if bad:
        shown = [f"{run_id} repeat {n} ({why})" for (run_id, n), why in bad.items()][:SHOWN]
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        log.warning(
            "%s: %d repeats are not whole and do not count: %s%s",
            folder, len(bad), ", ".join(shown), more,
        )  # fmt: skip
        frame, checks = (
            table.loc[[key not in bad for key in table[KEY].itertuples(index=False, name=None)]]
            for table in (frame, checks)
        )
    skipped = _read(folder / SKIPPED, tables.SKIPPED_COLUMNS)
    return Run(frame.reset_index(drop=True), meta, checks.reset_index(drop=True), skipped)


def _defects(frame: pd.DataFrame, checks: pd.DataFrame) -> dict[tuple[str, int], str]:
    """Return what is wrong with each repeat that is not whole."""
    named = frame.assign(named=frame["stage"] + "/" + frame["part"]).sort_values("named")
    times = named.groupby(KEY, sort=False).agg(
        **{name: (name, "first") for name in KIND},
        parts=("named", ",".join), least_ns=("time_ns", "min"), sum_ns=("time_ns", "sum"),
    )  # fmt: skip
    walls = checks.groupby(KEY, sort=False)["wall_ns"].agg(n="size", wall_ns="first")
    found = dict.fromkeys(walls.index.difference(times.index), "its times are missing")
    found |= dict.fromkeys(times.index.difference(walls.index), "its checks are missing")
    both = times.join(walls, how="inner")
    kinds = list(both[KIND].itertuples(index=False, name=None))
    rules = {kind: parts_of(*kind) for kind in set(kinds)}
    parts = {kind: ",".join(sorted(map("/".join, rules[kind][0]))) for kind in rules}
    signed = [rules[kind][1] for kind in kinds]
    wrong = {
        "checked twice": both["n"] > 1,
        "stages are missing or there twice": both["parts"] != [parts[kind] for kind in kinds],
        "a time is negative": (both["least_ns"] < 0) & ~np.array(signed, bool),
        "times do not sum to the wall time": both["sum_ns"] != both["wall_ns"],
    }
    why = pd.Series(np.select(list(wrong.values()), list(wrong), ""), both.index)
    return found | why[why != ""].to_dict()


def _read(path: Path, columns: list[str], more: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table up to its last whole line; one without rows where there is no file.

    A ValueError names the file and what is wrong in it: a column that is missing, a cell.
    """
    try:
        text = path.read_bytes().decode() if path.exists() else ""
        text = text[: text.rfind("\n") + 1]
        raw = pd.read_csv(StringIO(text), dtype=str, na_filter=False) if text else None
    except ValueError as error:  # of decoding or of pandas
        raise ValueError(f"{path} is damaged: it is no text of a table ({error})") from None
    if raw is None:
        return tables.empty(columns)
    raw = _with_later_columns(raw)
    if missing := [name for name in columns if name not in raw]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    kept = [*columns, *(name for name in more if name in raw)]
    return pd.DataFrame({name: _typed(path, raw[name]) for name in kept})


def _with_later_columns(raw: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that runs of earlier versions lack."""
    linux = raw["source"] == "linux" if "source" in raw else False
    values = {name: str(value) for name, value in tables.EARLIER.items() if name not in raw}
    for name, value in values.items():
        raw[name] = np.where(linux, tables.EARLIER_LINUX.get(name, value), value)
    return raw


def _typed(path: Path, cells: pd.Series) -> pd.Series:
    """Return a column of text as its type; the first cell that is no such thing is named."""
    kind = tables.DTYPES[str(cells.name)]
    if kind is str:
        return cells
    codes, unlike = pd.factorize(cells)  # most columns repeat a few values: each is read once
    values = pd.Series(unlike, dtype=cells.dtype)
    if kind is bool:
        valid, typed, what = values.isin(["True", "False"]), values == "True", "True or False"
    else:
        # Checks of one source alone are blank for repeats of others that stand beside them.
        own = any(cells.name in names for names in tables.OWN_CHECKS.values())
        blank = (values == "") & own
        valid, what = blank | values.str.fullmatch(r"-?\d{1,18}(\.0)?"), "whole number"
        numbers = pd.to_numeric(values, errors="coerce")
        typed = numbers if numbers.isna().any() else numbers.astype(kind)
    if not valid.all():
        row = int((~valid).to_numpy()[codes].argmax())
        raise ValueError(
            f"{path} is damaged: row {row + 2}, column {cells.name} holds {cells.iloc[row]!r}, "
            f"no {what}"
        )
    return typed.iloc[codes].set_axis(cells.index)
