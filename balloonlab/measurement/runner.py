"""Trials: the same memory, the cases in turns, repeat by repeat; each in the lab, or in QEMU."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil

from .. import wire
from ..guest import Operation
from ..host import BalloonDevice, GuestRam
from ..host.ram import check_thp, missing_facilities
from ..kernels.clock import Log
from ..kernels.faults import DESCRIPTIONS, REPEATED
from ..qemu import QemuProcess, find
from ..terminal import Progress
from .case import Case
from .machine import machine
from .stages import Work, make_frame, stage_times

WARM_UP = -1
"""Stands for the repeat that is made before all others and dropped."""


@dataclass(frozen=True)
class Repeat:
    """One measured repeat: its rows, and what memory looked like around it."""

    frame: pd.DataFrame
    check: dict[str, Any]


class Trial(NamedTuple):
    """A case, and what is done once a repeat: with the lab's RAM, or with a QEMU process."""

    case: Case
    once: Callable[[Case, Any, str, int], Repeat]


def count_steps(trials: list[Trial]) -> int:
    """Count the repeats and warm-ups of all trials."""
    return sum(trial.case.repeats + 1 for trial in trials)


def _memory_of(trial: Trial) -> tuple[str, int, bool, bool]:
    return trial.case.memory_key


def check_facilities(host: str = "lab") -> None:
    """Refuse to measure where the platform cannot.

    Raises
    ------
    NotImplementedError
        Naming what is missing.
    QemuError
        QEMU is missing or too old.
    """
    missing = missing_facilities()
    if missing:
        raise NotImplementedError(
            f"measuring needs {', '.join(missing)}, missing here; everything except measuring works"
        )
    if host == "qemu":
        find()


def shared_ram(case: Case) -> GuestRam | None:
    """Map the RAM that cases of one kind share; a QEMU has its own, anew for each repeat.

    Raises
    ------
    MemoryError, ValueError
        As `balloonlab.host.GuestRam`.
    """
    if case.host == "lab":
        return GuestRam(case.memory_pages, case.thp)
    if case.thp:
        check_thp()
    return None


def run_trials(trials: list[Trial], progress: Progress) -> Iterator[Repeat]:
    """Run every trial's repeats after one warm-up each, which is dropped.

    Trials on the same kind of memory share one mapping and take turns, so that a
    drifting machine and the history of its memory are the same for all of them.
    """
    for host in {trial.case.host for trial in trials}:
        check_facilities(host)
    ids = {id(trial): uuid.uuid4().hex[:12] for trial in trials}
    for _, group in groupby(sorted(trials, key=_memory_of), _memory_of):
        together = list(group)
        ram = shared_ram(together[0].case)
        for number in range(WARM_UP, max(trial.case.repeats for trial in together)):
            for trial in together:
                if number < trial.case.repeats:
                    repeat = take_turn(trial, ram, ids[id(trial)], number, progress)
                    if number != WARM_UP:
                        yield repeat
        del ram


def take_turn(
    trial: Trial, ram: GuestRam | None, run_id: str, number: int, progress: Progress
) -> Repeat:
    """Bring memory into the state that the case asks for, and run it once.

    Without shared RAM in a QEMU of its own: memory that has lost its huge pages once does
    not get them back at the next touch, so a second repeat in it would be another measurement.
    """
    case = trial.case
    name = "warm-up" if number == WARM_UP else f"repeat {number + 1} of {case.repeats}"
    progress.describe(f"{case.label()}: {name}")
    if ram is not None and case.touched and case.thp:
        ram.renew()
    own: AbstractContextManager[GuestRam | QemuProcess]
    own = nullcontext(ram) if ram is not None else QemuProcess(case.memory_pages, case.thp)
    with own as guest:
        if case.touched:
            with progress.bytes("touching memory", case.memory_bytes) as advance:
                guest.touch(advance)
        repeat = trial.once(case, guest, run_id, number)
    progress.advance()
    return repeat


class Operated(NamedTuple):
    """An operation that was run: what its steps did, and what both ends logged."""

    steps: list[Operation]
    log: Log
    devices: dict[str, BalloonDevice]
    rss_fall_bytes: int


def operate_in_lab(case: Case, ram: GuestRam, run_id: str, number: int) -> Repeat:
    """Inflate or deflate the case's balloon once, with a fresh guest and a fresh device."""
    before = check_before(case, ram)
    done = operate(case, ram)
    after = check_after(case, ram, done)
    check = {
        "run_id": run_id,
        "protocol": case.protocol,
        "operation": case.operation,
        "touched": case.touched,
        "repeat": number,
        "rss_fall_bytes": done.rss_fall_bytes,
        **before,
        **after,
    }
    device = done.devices[case.operation]
    wall_ns = sum(step.wall_ns for step in done.steps)
    times = stage_times(case.operation, done.log, device.log, wall_ns)
    work = Work(
        negotiated_protocol=done.steps[0].negotiated_protocol,
        n_bitmaps=done.steps[0].n_bitmaps,
        n_kicks=sum(step.n_kicks for step in done.steps),
        wire_bytes=sum(step.wire_bytes for step in done.steps),
        n_records=sum(step.n_records for step in done.steps),
        n_translations=device.n_translations,
        n_discards=device.n_discards,
    )
    return Repeat(make_frame(case, run_id, number, work, times), check)


def operate(case: Case, ram: GuestRam) -> Operated:
    """Run a case's operation, step by step.

    Apart from the checks, so that the guest's lists (20 bytes a page) are gone by then.
    """
    settings = (case.protocol, case.discard, case.wait)
    guest = machine(
        ram, case.allocator(), *settings, bitmaps=case.bitmaps, operations=2 * case.steps
    )
    with guest as running:
        driver = running.driver
        if case.operation == "deflate":
            driver.inflate(case.balloon_pages)
            driver.log.clear()
        rss = psutil.Process().memory_info().rss
        steps = [driver.set_target(target) for target in case.targets()]
        fall = rss - psutil.Process().memory_info().rss
    return Operated(steps, driver.log, running.devices, fall)


def check_before(case: Case, ram: GuestRam) -> dict[str, Any]:
    """Refuse to time memory that is not in the state that the frame will claim."""
    resident = int(ram.resident().sum())
    huge = ram.huge_bytes()
    expected = case.memory_pages if case.touched else 0
    if resident != expected or (huge and not case.thp):
        raise RuntimeError(
            f"guest RAM is not as it should be for touched={case.touched}, thp={case.thp}: "
            f"{resident} of {case.memory_pages} pages are backed, {huge} bytes by huge pages; "
            "is this process being swapped or its memory merged?"
        )
    return {"resident_pages_before": resident, "huge_bytes_before": huge}


def check_balloon(case: Case, ram: GuestRam, ballooned: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Check that exactly the ballooned pages (a flag for each of RAM) are gone."""
    resident = ram.resident()
    left = int((resident & ballooned).sum())
    lost = ram.count_lost(ballooned) if case.touched else 0
    if left or lost:
        raise RuntimeError(
            f"the operation went wrong: {left} ballooned pages are still backed, {lost} pages "
            "outside the balloon lost their contents; nothing is reported"
        )
    return {
        "resident_pages_after": int(resident.sum()),
        "balloon_pages": int(ballooned.sum()),
        "lost_pages": lost,
    }


def check_after(case: Case, ram: GuestRam, done: Operated) -> dict[str, Any]:
    """Check what was told and what became of it; a deflated balloon's pages stay away."""
    faults: Counter[str] = Counter()
    for device in done.devices.values():
        faults.update(device.faults())
    if not wire.get(case.protocol).names_each_page_once:  # it sends pages again
        faults.pop(DESCRIPTIONS[REPEATED], None)
    errors = sum(device.n_discard_errors for device in done.devices.values())
    ballooned = np.zeros(case.memory_pages, bool)
    for step in done.steps:
        ballooned[ram.page_index(step.pages)] = True
    missing = case.balloon_pages - int(ballooned.sum())
    if errors or faults or missing:
        raise RuntimeError(
            f"the operation went wrong: {errors} madvise calls failed, bad records "
            f"{dict(faults)}, {missing} pages not told; nothing is reported"
        )
    return check_balloon(case, ram, ballooned)
