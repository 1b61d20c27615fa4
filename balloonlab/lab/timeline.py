"""The timeline of one inflation: every interval that guest and host logged."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..host import GuestRam
from ..kernels import clock
from .case import Case
from .machine import machine
from .trials import check_facilities

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
        As `balloonlab.measure` takes them; ``repeats`` has no effect.

    Returns
    -------
    pandas.DataFrame
        One row an interval, by begin: ``end`` (``guest`` or ``host``), ``stage`` (`NAMES`),
        ``begin_ns`` and ``end_ns`` since the operation began. ``attrs`` holds the case's
        ``protocol``, ``discard``, ``touched``, ``memory_bytes`` and ``balloon_bytes``.

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As `balloonlab.measure`.

    Examples
    --------
    >>> intervals = timeline(memory="64MiB", protocol="pfn")  # doctest: +SKIP
    """
    case = Case.make(**arguments)
    check_facilities()
    ram = GuestRam(case.memory_pages, case.thp)
    for _ in range(2):
        if case.touched:
            ram.touch()
        guest, host = _once(case, ram)
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


def _once(case: Case, ram: GuestRam) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Intervals of the guest and of the host."""
    settings = (case.protocol, case.discard, case.wait)
    guest = machine(
        ram, case.allocator(), *settings, bitmaps=case.bitmaps, operations=2 * case.steps
    )
    with guest as running:
        if case.operation == "deflate":
            running.driver.inflate(case.balloon_pages)
            running.driver.log.clear()
        for target in case.targets():
            running.driver.set_target(target)
    logs = running.driver.log, running.devices[case.operation].log
    first, second = (log.rows[: log.length[0]].copy() for log in logs)
    return first, second
