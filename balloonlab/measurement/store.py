"""Results on disk, repeat by repeat, so that Ctrl-C or a crash loses nothing finished.

A folder holds ``timings.csv`` (the tidy frame), ``checks.csv``, ``skipped.csv`` and
``meta.json``. Tables grow by whole repeats; the row of a repeat in the checks is written last.
A repeat counts when both are whole; see `balloonlab.measurement.reading`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .reading import CHECKS, META, SKIPPED, TIMINGS, check_alike, read_meta, read_run
from .run import Run
from .tables import SKIPPED_COLUMNS, empty

FIGURE = "headline"
OWN = (TIMINGS, META, CHECKS, SKIPPED, f"{FIGURE}.svg", f"{FIGURE}.png")
"""The files of a run; nothing else in a folder is ever moved."""

RESUMABLE = ("id", "sessions", "arguments")


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
        path = self.folder / name
        with _named(path), path.open("ab") as file:
            file.write(frame.to_csv(index=False, header=file.tell() == 0).encode())
            file.flush()
            os.fsync(file.fileno())

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Write a whole table, replacing it in one step."""
        self._replace(name, frame.to_csv(index=False))

    def write_run(self, run: Run) -> None:
        """Write all tables of a run; each is replaced in one step."""
        for table, name in ((run.frame, TIMINGS), (run.checks, CHECKS), (run.skipped, SKIPPED)):
            self.write(table, name)

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Write ``meta.json``, replacing it in one step."""
        self._replace(META, json.dumps(meta, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        path = self.folder / name
        draft = path.with_suffix(f"{path.suffix}.tmp")
        try:
            with _named(path), draft.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:  # Ctrl-C, too
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def set_aside(self, names: tuple[str, ...] = OWN) -> None:
        """Move an earlier run into a folder ``earlier-<time>`` beside it, never overwritten."""
        there = [self.folder / name for name in names if (self.folder / name).exists()]
        if not there:
            return
        when = datetime.fromtimestamp(there[0].stat().st_mtime, UTC)
        stem, n = f"earlier-{when:%Y%m%dT%H%M%S.%f}", 1
        while (aside := self.folder / (stem if n == 1 else f"{stem}-{n}")).exists():
            n += 1
        aside.mkdir()
        for path in there:
            path.rename(aside / path.name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock ends with this process.

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

    def begin(self, meta: dict[str, Any], check_columns: list[str], set_aside: bool = False) -> Run:
        """Start the run that `meta` describes, or go on with it; only whole repeats stay.

        Parameters
        ----------
        meta : dict
            Of the run that is about to be made.
        check_columns : list of str
            Columns of its checks.
        set_aside : bool
            Whether an earlier run that is finished, or another one, makes room. It is refused else.

        Returns
        -------
        Run
            What there is already, but for the skipped cases, which are to be tried again. Its
            ``meta`` is the stored one, with the new ``sessions`` (the machine at each
            start) added.

        Raises
        ------
        ValueError
            The folder holds another run, or one of another machine, code or arguments; a file
            is damaged.
        """
        stored = {**meta, "sessions": []}
        try:
            earlier = self._earlier(meta)
            if earlier and set_aside and earlier.get("finished", True):
                raise ValueError("it is finished")
            stored = earlier or stored
            run = read_run(self.folder, stored)
        except ValueError:
            if not set_aside:
                raise
            self.set_aside()
            run = read_run(self.folder, stored)
        stored["sessions"] = stored["sessions"] + meta["sessions"]
        stored["finished"] = False
        checks = run.checks if len(run.checks) else empty(check_columns)
        run = Run(run.frame, stored, checks, empty(SKIPPED_COLUMNS))
        self.write_meta(stored)
        self.write_run(run)
        return run

    def _earlier(self, meta: dict[str, Any]) -> dict[str, Any] | None:
        """Return the metadata of the same run, begun earlier; refuses another one."""
        where = f"out={str(self.folder)!r}"
        if not (self.folder / META).exists():
            if (self.folder / TIMINGS).exists():
                raise ValueError(
                    f"{where} holds a {TIMINGS} without {META}, so nobody can say where it comes "
                    "from: choose another folder"
                )
            return None
        stored = read_meta(self.folder, required=())
        if stored.get("command") != meta["command"]:
            raise ValueError(
                f"{where} holds a run of {stored.get('command', 'another command')}, not a "
                f"{meta['command']}: choose another folder"
            )
        stored = read_meta(self.folder, RESUMABLE)
        check_alike({where: stored, "this run": meta}, "choose another folder for this run")
        before, now = stored["arguments"], meta["arguments"]
        others = [name for name in now if before.get(name) != now[name]]
        if others:
            listed = "; ".join(f"{name}={before.get(name)}, not {now[name]}" for name in others)
            raise ValueError(
                f"{where} holds a {meta['command']} with {listed}: repeat its arguments to go on "
                "with it, or choose another folder (balloonlab.pool puts both into one frame)"
            )
        return stored


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors that do not, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_table(
    frame: pd.DataFrame, meta: dict[str, Any], folder: str | os.PathLike[str], name: str
) -> None:
    """Write a finished table and what it was made on, into a folder made if need be.

    An earlier table of the same name is set aside with its metadata.

    Raises
    ------
    ValueError
        As `check_out`, which commands call before they start; another process writes there.
    """
    store = Store(check_out(folder, name))
    with store.locked():
        store.set_aside((name, META))
        store.write(frame, name)
        store.write_meta(meta)
