"""Results on disk, repeat by repeat, so that Ctrl-C or a crash loses nothing finished."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .stages import COLUMNS

TIMINGS, META = "timings.csv", "meta.json"
FIGURE = "headline"
OWN = (TIMINGS, META, f"{FIGURE}.svg", f"{FIGURE}.png")
"""The files of a run; nothing else in a folder is ever moved."""


class Store:
    """A folder that takes the rows of a run as they come.

    Results of an earlier run in the same folder are moved into a folder
    ``earlier-<time>`` beside them, never overwritten.

    Parameters
    ----------
    folder : path-like
        Made if need be.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._set_aside()

    def append(self, frame: pd.DataFrame) -> None:
        """Add rows to ``timings.csv``; on disk when this returns."""
        path = self.folder / TIMINGS
        with path.open("a", newline="") as file:
            frame.to_csv(file, index=False, header=file.tell() == 0)
            file.flush()
            os.fsync(file.fileno())

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Write ``meta.json``, replacing it in one step."""
        path = self.folder / META
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(meta, indent=2) + "\n")
        draft.replace(path)

    def _set_aside(self) -> None:
        old = self.folder / TIMINGS
        if not old.exists():
            return
        when = datetime.fromtimestamp(old.stat().st_mtime, UTC)
        aside = self.folder / f"earlier-{when:%Y%m%dT%H%M%S.%f}"
        aside.mkdir(exist_ok=True)
        for name in OWN:
            if (self.folder / name).exists():
                (self.folder / name).rename(aside / name)


def write_table(frame: pd.DataFrame, meta: dict[str, Any], folder: Path, name: str) -> None:
    """Write a finished table and what it was made on, into a folder made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / name, index=False)
    (folder / META).write_text(json.dumps(meta, indent=2) + "\n")


def load(folder: str | os.PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a stored run: its frame and its metadata.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        The file lacks columns of the tidy frame.
    """
    path = Path(folder)
    if not (path / TIMINGS).is_file() or not (path / META).is_file():
        raise FileNotFoundError(f"{path} holds no run: it must contain {TIMINGS} and {META}")
    try:
        frame = pd.read_csv(path / TIMINGS)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path / TIMINGS} is empty: no repeat was finished") from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"{path / TIMINGS} lacks the columns {', '.join(missing)}")
    return frame, json.loads((path / META).read_text())
