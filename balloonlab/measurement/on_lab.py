"""One repeat at balloonlab's own device, and what its guest's RAM looks like around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from .. import wire
from ..guest import Operation
from ..host import BalloonDevice, GuestRam
from ..kernels.clock import Log
from ..kernels.faults import DESCRIPTIONS, REPEATED
from ..sizes import MIB, PAGE_BYTES
from . import floor
from .case import Case
from .machine import machine
from .resources import check_huge
from .stages import WARM_UP, Repeat, Times, Work, stage_times


def share(case: Case) -> GuestRam:
    """Map the RAM that cases of one kind share; errors as `balloonlab.host.GuestRam`."""
    return GuestRam(case.memory_pages, case.thp)


@contextmanager
def use(case: Case, ram: GuestRam) -> Iterator[GuestRam]:
    """Hand out the shared RAM; huge pages once lost come back only in a new mapping."""
    if case.touched and case.thp:
        ram.renew()
    yield ram


class Operated(NamedTuple):
    """An operation that was run: what its steps did, and what both ends logged."""

    steps: list[Operation]
    log: Log
    devices: dict[str, BalloonDevice]
    rss_fall_bytes: int


def operate_in_lab(case: Case, ram: GuestRam, run_id: str, number: int) -> Repeat:
    """Inflate or deflate the case's balloon once, with a fresh guest and a fresh device."""
    check = check_before(case, ram)
    if case.protocol == floor.PROTOCOL:
        work, times, seen = floor.discard_once(case, ram)
        ballooned = np.arange(case.memory_pages) < case.balloon_pages
    else:
        done = operate(case, ram)
        work, times = _work(case, done)
        seen = {"rss_fall_bytes": done.rss_fall_bytes}
        ballooned = check_sent(case, ram, done)
    check |= seen | check_balloon(case, ram, ballooned)
    if number != WARM_UP:  # which compiles, and grows
        check_rss_fall(case, check["rss_fall_bytes"])
    return Repeat.of(case, run_id, number, work, times, **check)


def operate(case: Case, ram: GuestRam) -> Operated:
    """Run a case's operation, step by step.

    Apart from the checks, so that the guest's lists (20 bytes per page) are gone by then.
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


def _work(case: Case, done: Operated) -> tuple[Work, Times]:
    device = done.devices[case.operation]
    wall_ns = sum(step.wall_ns for step in done.steps)
    work = Work(
        negotiated_protocol=done.steps[0].negotiated_protocol,
        n_bitmaps=done.steps[0].n_bitmaps,
        n_kicks=sum(step.n_kicks for step in done.steps),
        wire_bytes=sum(step.wire_bytes for step in done.steps),
        n_records=sum(step.n_records for step in done.steps),
        n_translations=device.n_translations,
        n_discards=device.n_discards,
    )
    return work, stage_times(case.operation, done.log, device.log, wall_ns)


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
    check_huge(case.memory_bytes, case.touched and case.thp, huge)
    return {"resident_pages_before": resident, "huge_bytes_before": huge}


def check_rss_fall(case: Case, fall_bytes: int) -> None:
    """Refuse an inflation of touched memory after which the process is as large as before.

    A tenth and 64 MiB are let pass, and what the kernel's counters per processor can be off.
    """
    if case.operation != "inflate" or not case.touched:
        return
    n_cpus = psutil.cpu_count() or 1
    counters = n_cpus * max(32, 2 * n_cpus) * PAGE_BYTES
    least = case.balloon_bytes * 0.9 - 64 * MIB - counters
    if fall_bytes < least:
        raise RuntimeError(
            f"the process's RSS must fall by the balloon's {case.balloon_bytes} bytes, it fell by "
            f"{fall_bytes}: does something else in this process take memory meanwhile? "
            "Nothing is reported"
        )


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


def check_sent(case: Case, ram: GuestRam, done: Operated) -> npt.NDArray[np.bool_]:
    """Return which pages of RAM were sent; refuses faults, failed calls and missing pages."""
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
            f"{dict(faults)}, {missing} pages not sent; nothing is reported"
        )
    return ballooned
