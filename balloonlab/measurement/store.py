"""Results on disk, repeat by repeat, so that Ctrl-C or a crash loses nothing finished.

A folder holds ``timings.csv`` (the tidy frame), ``checks.csv``, ``skipped.csv`` and
``meta.json``. Tables grow by whole repeats; the row of a repeat in the checks is written last.
A repeat counts when both are whole; see `balloonlab.measurement.reading`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from .options import PathLike
from .reading import CHECKS, META, SKIPPED, TIMINGS, check_alike, read_meta, read_run
from .run import Run
from .tables import SKIPPED_COLUMNS, empty

FIGURE = "headline"
OWN = (TIMINGS, META, CHECKS, SKIPPED, f"{FIGURE}.svg", f"{FIGURE}.png")
"""The files of a run; nothing else in a folder is ever moved."""

log = logging.getLogger(__name__)

RESUMABLE = ("id", "sessions", "arguments")


def check_out(out: PathLike, table: str = TIMINGS) -> Path:
    """Check a folder for results before any work starts; nothing is made or changed.

    Refuses an `out` that is empty, a file, below a file, cannot be written, or holds the run of a
    command that writes another table (ValueError).
    """
    if not os.fspath(out):
        raise ValueError("out must name a folder for results, got ''")
    folder = Path(out)
    place = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not place.is_dir():
        raise ValueError(f"out must be a folder, but {place} is a file: choose another one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"out must be a folder that can be written, but {place} cannot")
    if (folder / META).exists():
        tables = sorted({path.name for path in folder.glob("*.csv")} - {CHECKS, SKIPPED})
        own = [TIMINGS] if TIMINGS in tables else tables  # of these the metadata are
        if own and table not in own:
            raise ValueError(
                f"out={str(folder)!r} holds the {META} of another run ({own[0]}), which is not "
                "overwritten: choose another folder"
            )
    return folder


class _ForeignRunError(ValueError):
    """The folder holds what another command made: it is never moved."""


class Store:
    """A folder that takes the rows of a run as they come; made if need be."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def append(self, frame: pd.DataFrame, name: str = TIMINGS) -> None:
        """Add rows to a table, all in one write; on disk when this returns."""
        with _synced(self.folder / name, "ab") as file:
            file.write(frame.to_csv(index=False, header=file.tell() == 0).encode())

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Write a whole table, replacing it in one step."""
        self.replace(name, frame.to_csv(index=False))

    def write_run(self, run: Run) -> None:
        """Write all tables of a run; each is replaced in one step."""
        for table, name in ((run.frame, TIMINGS), (run.checks, CHECKS), (run.skipped, SKIPPED)):
            self.write(table, name)

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Write ``meta.json``, replacing it in one step."""
        self.replace(META, json.dumps(meta, indent=2) + "\n")

    def replace(self, name: str, text: str) -> None:
        """Write a file of text, replacing it in one step."""
        path = self.folder / name
        draft = path.with_suffix(f"{path.suffix}.tmp")
        try:
            with _synced(draft, "wb") as file:
                file.write(text.encode())
            draft.replace(path)
        except BaseException:  # Ctrl-C, too
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def set_aside(self, names: tuple[str, ...] = OWN) -> str:
        """Move an earlier run into a folder of its own, never overwritten; return its name."""
        there = [self.folder / name for name in names if (self.folder / name).exists()]
        if not there:
            return ""
        when = datetime.fromtimestamp(there[0].stat().st_mtime, UTC)
        stem, n = f"earlier-{when:%Y%m%dT%H%M%S.%f}", 1
        while (aside := self.folder / (stem if n == 1 else f"{stem}-{n}")).exists():
            n += 1
        aside.mkdir()
        for path in there:
            path.rename(aside / path.name)
        return aside.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here, until this one ends (ValueError)."""
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

        Returns what there is already, but for the skipped cases, which are to be tried again. Its
        ``meta`` is the stored one, with the new ``sessions`` (the machine at each start) added.
        Another run, or one of another machine, code or arguments, and damaged files are refused
        (ValueError); with `set_aside` those and a finished run make room.
        """
        stored = {**meta, "sessions": []}
        try:
            earlier = self._earlier(meta)
            if earlier and set_aside and earlier.get("finished", True):
                raise ValueError("it is finished")
            stored = earlier or stored
            run = read_run(self.folder, stored).measured()  # failed cases are measured anew
        except ValueError as error:
            if not set_aside or isinstance(error, _ForeignRunError):
                raise
            log.warning("%s: the earlier run is set aside in %s", self.folder, self.set_aside())
            stored = {**meta, "sessions": []}
            run = read_run(self.folder, stored)
        stored |= {"sessions": stored["sessions"] + meta["sessions"], "finished": False}
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
                raise _ForeignRunError(
                    f"{where} holds a {TIMINGS} without {META}, so nobody can say where it comes "
                    "from: choose another folder"
                )
            return None
        stored = read_meta(self.folder)
        if stored.get("command") != meta["command"]:
            raise _ForeignRunError(
                f"{where} holds a run of {stored.get('command', 'another command')}, not a "
                f"{meta['command']}: choose another folder"
            )
        stored = read_meta(self.folder, RESUMABLE)
        check_alike({where: stored, "this run": meta}, "choose another folder for this run")
        before, now = stored["arguments"], meta["arguments"]
        others = [name for name in now if before.get(name) != now[name]]
        if others and read_run(self.folder, stored).checks.empty:
            return None  # nothing was measured of it
        if others:
            listed = "; ".join(f"{name}={before.get(name)}, not {now[name]}" for name in others)
            raise ValueError(
                f"{where} holds a {meta['command']} with {listed}: repeat its arguments to go on "
                "with it, or choose another folder (balloonlab.pool puts both into one frame)"
            )
        return stored


@contextmanager
def _synced(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """Open a file that is on disk at the end; it is named in errors such as that of a full disk."""
    try:
        with path.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_table(frame: pd.DataFrame, meta: dict[str, Any], folder: PathLike, name: str) -> None:
    """Write a finished table and what it was made on, into a folder made if need be.

    An earlier table of the same name is set aside with its metadata. Errors as `check_out`, which
    commands call before they start; another process writes there.
    """
    store = Store(check_out(folder, name))
    with store.locked():
        store.set_aside((name, META))
        store.write(frame, name)
        store.write_meta(meta)
