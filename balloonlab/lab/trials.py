"""Trials: the same memory, the cases in turns, repeat by repeat."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil

from .. import wire
from ..guest import BalloonDriver, Inflation
from ..host import BalloonDevice, GuestRam
from ..host.device import EXTENTS
from ..host.ram import missing_facilities
from ..kernels.pfn import PFNS_PER_BUFFER
from ..queue import QUEUE_BYTES, Virtqueue
from .case import Case
from .progress import Progress
from .resources import check_available
from .stages import Work, make_frame, stage_times


@dataclass(frozen=True)
class Repeat:
    """One measured repeat: its rows, and what memory looked like around it."""

    frame: pd.DataFrame
    check: dict[str, Any]


class Trial(NamedTuple):
    """A case, and what is done once a repeat."""

    case: Case
    once: Callable[[Case, GuestRam, str, int], Repeat]


def count_steps(trials: list[Trial]) -> int:
    """Count the repeats and warm-ups of all trials."""
    return sum(trial.case.repeats + 1 for trial in trials)


def _memory_of(trial: Trial) -> tuple[int, bool, bool]:
    return trial.case.memory_pages, trial.case.thp, trial.case.touched


def check_facilities() -> None:
    """Refuse to measure where the platform cannot.

    Raises
    ------
    NotImplementedError
        Naming what is missing.
    """
    missing = missing_facilities()
    if missing:
        raise NotImplementedError(
            f"measuring needs {', '.join(missing)}, missing here; everything except measuring works"
        )


def run_trials(trials: list[Trial], progress: Progress) -> Iterator[Repeat]:
    """Run every trial's repeats after one warm-up each, which is dropped.

    Trials on the same kind of memory share one mapping and take turns, so that a
    drifting machine and the history of its memory are the same for all of them.
    """
    check_facilities()
    for trial in trials:
        check_available(trial.case.memory_bytes, trial.case.touched)
    ids = {id(trial): uuid.uuid4().hex[:12] for trial in trials}
    for _, group in groupby(sorted(trials, key=_memory_of), _memory_of):
        together = list(group)
        first = together[0].case
        ram = GuestRam(first.memory_pages, first.thp)
        for number in range(-1, max(trial.case.repeats for trial in together)):
            for trial in together:
                case = trial.case
                if number >= case.repeats:
                    continue
                name = "warm-up" if number < 0 else f"repeat {number + 1} of {case.repeats}"
                progress.describe(f"{case.label()}: {name}")
                if case.touched:
                    with progress.bytes("touching memory", case.memory_bytes) as advance:
                        ram.touch(advance)
                repeat = trial.once(case, ram, ids[id(trial)], number)
                progress.advance()
                if number >= 0:
                    yield repeat
        del ram


def inflate_once(case: Case, ram: GuestRam, run_id: str, number: int) -> Repeat:
    """Inflate the case's balloon once, with a fresh guest and a fresh device."""
    n_buffers = case.balloon_pages // PFNS_PER_BUFFER + 3
    rows = 3 * n_buffers + 2 * (case.balloon_pages // EXTENTS + 1)
    resident_before = int(ram.resident().sum())
    rss_before = psutil.Process().memory_info().rss
    with Virtqueue(ram.driver_memory()[:QUEUE_BYTES], case.wait == "busy") as queue:
        device = BalloonDevice(ram, queue, wire.get(case.protocol), case.discard, rows)
        driver = BalloonDriver(ram.driver_memory(), queue, case.allocator(), case.protocol, rows)
        device.start()
        try:
            inflation = driver.inflate(case.balloon_pages)
        finally:
            device.stop()
        check = _check(case, ram, inflation, device, resident_before)
    check = {
        "run_id": run_id,
        "protocol": case.protocol,
        "touched": case.touched,
        "repeat": number,
        "rss_fall_bytes": rss_before - psutil.Process().memory_info().rss,
        **check,
    }
    times = stage_times(driver.log, device.log, inflation.wall_ns)
    work = Work(
        n_kicks=inflation.n_kicks,
        wire_bytes=inflation.wire_bytes,
        n_records=inflation.n_records,
        n_translations=device.n_translations,
        n_discards=device.n_discards,
    )
    return Repeat(make_frame(case, run_id, number, work, times), check)


def _check(
    case: Case, ram: GuestRam, inflation: Inflation, device: BalloonDevice, before: int
) -> dict[str, Any]:
    """Look at memory after an inflation; refuse to report a run that did not do its work."""
    ballooned = np.zeros(case.memory_pages, bool)
    ballooned[ram.page_index(inflation.pages)] = True
    resident = ram.resident()
    left = int((resident & ballooned).sum())
    lost = ram.count_lost(ballooned) if case.touched else 0
    faults = device.faults()
    if left or lost or device.n_discard_errors or faults or ballooned.sum() != case.balloon_pages:
        raise RuntimeError(
            f"the inflation went wrong: {left} ballooned pages still backed, {lost} pages outside "
            f"the balloon lost their contents, {device.n_discard_errors} madvise calls failed, "
            f"faults {faults}; nothing is reported"
        )
    return {
        "resident_pages_before": before,
        "resident_pages_after": int(resident.sum()),
        "balloon_pages": case.balloon_pages,
        "lost_pages": lost,
    }
