"""The timeline of one inflation: every interval that guest and host logged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..host import GuestRam
from ..kernels import clock
from .case import make_case
from .runner import check_after, check_facilities, operate
from .store import META

TIMELINE = "timeline.csv"

NAMES = {
    clock.ALLOCATE: "allocate",
    clock.PACK: "pack",
    clock.ROUND_TRIP: "round trip",
    clock.DECODE: "decode",
    clock.TRANSLATE: "translate",
    clock.DISCARD: "discard",
    clock.RELEASE: "release",
}
"""What the two ends log; the guest's round trip spans the host's intervals and both wake-ups."""


def timeline(**arguments: Any) -> pd.DataFrame:
    """Run one operation and return every interval of both ends.

    The first run is a warm-up and dropped; nothing is averaged.

    Parameters
    ----------
    **arguments
        As `balloonlab.measure` takes them; ``repeats`` and ``progress`` have no effect.

    Returns
    -------
    pandas.DataFrame
        One row an interval, by begin: ``end`` (``guest`` or ``host``), ``stage`` (`NAMES`),
        ``begin_ns`` and ``end_ns`` since the operation began. ``attrs`` holds the case's
        ``protocol``, ``discard``, ``touched``, ``memory_bytes`` and ``balloon_bytes``.

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError, RuntimeError
        As `balloonlab.measure`.

    Examples
    --------
    >>> intervals = timeline(memory="64MiB", protocol="pfn")  # doctest: +SKIP
    """
    arguments.pop("progress", None)
    case = make_case(arguments)
    if case.host != "lab":
        raise ValueError(
            f"host must be 'lab' for a timeline, got {case.host!r}: an unmodified QEMU logs nothing"
        )
    check_facilities()
    ram = GuestRam(case.memory_pages, case.thp)
    for _ in range(2):
        if case.touched:
            ram.touch()
        done = operate(case, ram)
        check_after(case, ram, done)
    logs = done.log, done.devices[case.operation].log
    guest, host = (log.rows[: log.length[0]] for log in logs)
    frame = pd.DataFrame(
        {
            "end": np.repeat(["guest", "host"], [len(guest), len(host)]),
            "stage": [NAMES[stage] for stage in np.concatenate([guest, host])[:, 0]],
            "begin_ns": np.concatenate([guest, host])[:, 1],
            "end_ns": np.concatenate([guest, host])[:, 2],
        }
    )
    frame[["begin_ns", "end_ns"]] -= guest[0, 1]
    frame.attrs = {
        name: getattr(case, name)
        for name in ("protocol", "discard", "touched", "memory_bytes", "balloon_bytes")
    }
    return frame.sort_values("begin_ns", ignore_index=True)


def load_timeline(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a timeline that ``balloonlab timeline`` stored.

    Parameters
    ----------
    folder : path-like
        What ``--out`` was.

    Returns
    -------
    pandas.DataFrame
        As of `timeline`.
    """
    path = Path(folder)
    frame = pd.read_csv(path / TIMELINE)
    frame.attrs = json.loads((path / META).read_text())["case"]
    return frame
