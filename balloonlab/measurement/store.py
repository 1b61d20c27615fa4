"""Results on disk, repeat by repeat, so that Ctrl-C or a crash loses nothing finished.

A folder holds ``timings.csv`` (the tidy frame), ``meta.json`` and, of a sweep, ``checks.csv``
and ``skipped.csv``. Tables grow by whole repeats; the row of a repeat in the checks (of
``balloonlab reproduce``: in ``meta.json``) is written last and says that the repeat is
whole. What a kill left without it does not count, and is cleared away before a sweep goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from .api import Run
from .stages import COLUMNS, DTYPES, SKIPPED_COLUMNS, check_columns, empty, stack

TIMINGS, META, CHECKS, SKIPPED = "timings.csv", "meta.json", "checks.csv", "skipped.csv"
FIGURE = "headline"
OWN = (TIMINGS, META, CHECKS, SKIPPED, f"{FIGURE}.svg", f"{FIGURE}.png")
"""The files of a run; nothing else in a folder is ever moved."""

MACHINE = ("cpu_model", "cpu_count", "machine", "kernel", "thp", "compiled", "commit")
VERSIONS = ("balloonlab", "numba", "llvmlite", "numpy")
"""What runs must agree in to stand in one frame: the processor, the kernel that discards, its
huge page setting, and the code that is timed, of which the commit says more than the version.
Runs in QEMU must agree in its version, too. Python and pandas do not run while time is taken, and
how much memory there is decides what fits, not how long it takes."""


def check_out(out: str | os.PathLike[str], table: str = TIMINGS) -> Path:
    """Check a folder for results before any work starts; nothing is made or changed.

    Parameters
    ----------
    out : path-like
        What a user gave as ``out`` or ``--out``.
    table : str
        The table that is to be written. Beside another command's the folder is refused.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        `out` is empty, a file, below a file, cannot be written, or holds another command's run.
    """
    if not os.fspath(out):
        raise ValueError("out must name a folder for results, got ''")
    folder = Path(out)
    place = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not place.is_dir():
        raise ValueError(f"out must be a folder, but {place} is a file: choose another one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"out must be a folder that can be written, but {place} cannot")
    if (folder / META).exists() and not (folder / table).exists():
        others = [name for name in (TIMINGS, *_tables(folder)) if (folder / name).exists()]
        if others and table not in others:
            _refuse_foreign(folder, others[0])
    elif (folder / META).exists() and table != TIMINGS and (folder / TIMINGS).exists():
        _refuse_foreign(folder, TIMINGS)
    return folder


def _tables(folder: Path) -> list[str]:
    mine = (CHECKS, SKIPPED)
    return sorted(path.name for path in folder.glob("*.csv") if path.name not in mine)


def _refuse_foreign(folder: Path, table: str) -> None:
    raise ValueError(
        f"out={str(folder)!r} holds the {META} of another run ({table}), which is not overwritten: "
        "choose another folder"
    )


class Store:
    """A folder that takes the rows of a run as they come.

    Parameters
    ----------
    folder : path-like
        Made if need be.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def append(self, frame: pd.DataFrame, name: str = TIMINGS) -> None:
        """Add rows to a table, all in one write; on disk when this returns."""
        with (self.folder / name).open("ab") as file:
            file.write(frame.to_csv(index=False, header=file.tell() == 0).encode())
            file.flush()
            os.fsync(file.fileno())

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Write a whole table, replacing it in one step."""
        self._replace(name, frame.to_csv(index=False))

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Write ``meta.json``, replacing it in one step."""
        self._replace(META, json.dumps(meta, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        draft = (self.folder / name).with_suffix(".tmp")
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / name)

    def set_aside(self) -> None:
        """Move an earlier run into a folder ``earlier-<time>`` beside it, never overwritten."""
        old = self.folder / TIMINGS
        if not old.exists():
            return
        when = datetime.fromtimestamp(old.stat().st_mtime, UTC)
        aside = self.folder / f"earlier-{when:%Y%m%dT%H%M%S.%f}"
        aside.mkdir(exist_ok=True)
        for name in OWN:
            if (self.folder / name).exists():
                (self.folder / name).rename(aside / name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from adding to the run; the lock ends with this process.

        Raises
        ------
        ValueError
            Another one is at it.
        """
        from fcntl import LOCK_EX, LOCK_NB, flock  # Linux, as all that measures

        folder = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                flock(folder, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"out={str(self.folder)!r} is being written by another process: wait for it, "
                    "or choose another folder"
                ) from None
            yield
        finally:
            os.close(folder)

    def resume(self, meta: dict[str, Any]) -> Run:
        """Start the run that `meta` describes, or go on with it; only whole repeats stay.

        Parameters
        ----------
        meta : dict
            Of the run that is about to be made.

        Returns
        -------
        Run
            What there is already, but for the skipped cases, which are to be tried again. Its
            ``meta`` is the stored one, with the new ``sessions`` (the machine at each
            start) added.

        Raises
        ------
        ValueError
            The folder holds another run, or one of another machine, code or arguments.
        """
        stored = {**meta, "sessions": []}
        if (self.folder / META).exists():
            stored = json.loads((self.folder / META).read_text())
            self._check_same_run(stored, meta)
        elif (self.folder / TIMINGS).exists():
            raise ValueError(
                f"out={str(self.folder)!r} holds a {TIMINGS} without {META}, so nobody can say "
                "where it comes from: choose another folder"
            )
        stored["sessions"] = stored["sessions"] + meta["sessions"]
        stored["finished"] = False
        run = replace(_read_run(self.folder, stored), skipped=empty(SKIPPED_COLUMNS))
        self.write_meta(stored)
        self.write(run.frame, TIMINGS)
        self.write(run.checks, CHECKS)
        self.write(run.skipped, SKIPPED)
        return run

    def _check_same_run(self, stored: dict[str, Any], meta: dict[str, Any]) -> None:
        where = f"out={str(self.folder)!r}"
        if stored.get("command") != meta["command"]:
            raise ValueError(
                f"{where} holds a run of balloonlab {stored.get('command')}, not a sweep: "
                "choose another folder"
            )
        check_alike({where: stored, "this run": meta}, "choose another folder for this run")
        before, now = stored["arguments"], meta["arguments"]
        others = [name for name in now if before.get(name) != now[name]]
        if others:
            listed = "; ".join(f"{name}={before.get(name)}, not {now[name]}" for name in others)
            raise ValueError(
                f"{where} holds a sweep with {listed}: repeat its arguments to go on with it, or "
                "choose another folder (balloonlab.pool puts both into one frame)"
            )


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


def write_table(frame: pd.DataFrame, meta: dict[str, Any], folder: Path, name: str) -> None:
    """Write a finished table and what it was made on, into a folder made if need be."""
    store = Store(folder)
    store.write(frame, name)
    store.write_meta(meta)


def load(folder: str | os.PathLike[str]) -> Run:
    """Read a stored run, finished or not, with the types that it was measured with.

    Parameters
    ----------
    folder : path-like
        What ``out=`` was.

    Returns
    -------
    Run
        Of an unfinished run (``meta["finished"]`` is False) every whole repeat.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        A file lacks columns of the tidy frame, or the run was carried on by unlike machines.
    """
    path = Path(folder)
    if not (path / TIMINGS).is_file() or not (path / META).is_file():
        raise FileNotFoundError(f"{path} holds no run: it must contain {TIMINGS} and {META}")
    if not (path / TIMINGS).stat().st_size:
        raise ValueError(f"{path / TIMINGS} is empty: no repeat was finished")
    meta = json.loads((path / META).read_text())
    if "sessions" in meta:
        sessions = {f"{path} from {one['utc_time']}": one for one in meta["sessions"]}
        check_alike(sessions, "measure it again in another folder")
    return _read_run(path, meta).measured()


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


def _read_run(folder: Path, meta: dict[str, Any]) -> Run:
    """Read what is whole: repeats whose check is there, too."""
    frame = _read(folder / TIMINGS, COLUMNS)
    columns = check_columns([meta.get("arguments", {}).get("host", "lab")])
    checks = _read(folder / CHECKS, columns)
    if "checks" in meta:
        checks = pd.DataFrame(meta["checks"], columns=columns)
    whole = set(zip(checks["run_id"], checks["repeat"], strict=True))
    rows = zip(frame["run_id"], frame["repeat"], strict=True)
    frame = frame.loc[[row in whole for row in rows]].reset_index(drop=True)
    return Run(frame, meta, checks, _read(folder / SKIPPED, SKIPPED_COLUMNS))


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a table up to its last whole line; one without rows where there is no file."""
    text = path.read_text() if path.exists() else ""
    text = text[: text.rfind("\n") + 1]
    if not text:
        return empty(columns)
    missing = set(columns) - set(text.partition("\n")[0].split(","))
    if missing:
        listed = ", ".join(name for name in columns if name in missing)
        raise ValueError(f"{path} lacks the columns {listed}")
    return pd.read_csv(StringIO(text), dtype=DTYPES, na_filter=False)
