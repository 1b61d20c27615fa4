"""One repeat at balloonlab's own device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Self

import numpy as np
import psutil

from .. import wire
from ..guest import InVcpu, Operation
from ..host import BalloonDevice, GuestRam, Policy
from ..host.crew import Crew
from ..host.ram import Mapped, deferred_huge_pages
from ..kernels.clock import Log
from ..kernels.faults import DESCRIPTIONS, REPEATED
from .case import Case
from .checks import Pages, check_after, check_before, check_freed, check_rss_fall, none_lost
from .machine import machine
from .stages import WARM_UP, Repeat, Times, Work, stage_times

FLOOR, FLOOR_DISCARD = "madvise", "single"
"""What stands in the frame's columns for one call over as many bytes, without a message."""


def share(case: Case) -> GuestRam:
    """Map the RAM that cases of one kind share; errors as `balloonlab.host.GuestRam`."""
    return GuestRam(case.memory_pages, case.thp, case.backing)


@contextmanager
def use(case: Case, ram: GuestRam) -> Iterator[GuestRam]:
    """Hand out the shared RAM; huge pages once lost come back only in a new mapping.

    Nor does RAM over which a discard mapped something else.
    """
    if case.touched and case.thp:
        ram.renew()
    try:
        yield ram
    finally:
        if case.verb == "map":
            ram.renew()


class Falls(NamedTuple):
    """By how much the process, and what is held of RAM, became smaller; how it is mapped then."""

    rss_bytes: int
    held_bytes: int
    mapped: Mapped
    deferred: int  # huge pages that were broken, but are held whole

    @classmethod
    def now(cls, ram: GuestRam) -> Self:
        """Return what there is now."""
        mapped = ram.mapped()
        held_bytes, deferred = ram.held_bytes(mapped), deferred_huge_pages()
        return cls(psutil.Process().memory_info().rss, held_bytes, mapped, deferred)

    def since(self, ram: GuestRam) -> Falls:
        """Return by how much it fell."""
        now = Falls.now(ram)
        fall = self.rss_bytes - now.rss_bytes
        deferred = now.deferred - self.deferred
        return Falls(fall, self.held_bytes - now.held_bytes, now.mapped, deferred)


class Operated(NamedTuple):
    """An operation that was run: what its steps did, and what both ends logged."""

    steps: list[Operation]
    log: Log
    devices: dict[str, BalloonDevice]
    falls: Falls


def operate_in_lab(case: Case, ram: GuestRam, run_id: str, number: int) -> Repeat:
    """Inflate or deflate the case's balloon once, with a fresh guest and a fresh device."""
    return carry_out(case, ram, run_id, number, operate, ram.count_lost)


def carry_out(
    case: Case,
    ram: GuestRam,
    run_id: str,
    number: int,
    run: Callable[[Case, GuestRam], Operated],
    count_lost: Callable[[Pages], int],
) -> Repeat:
    """Do one repeat around `run`, which operates; `count_lost` as `GuestRam.count_lost`."""
    check = check_before(case, ram)
    if case.protocol == FLOOR:
        times, falls, n_calls = discard_once(case, ram)
        work = Work(n_discards=n_calls)
        ballooned = np.arange(case.memory_pages) < case.balloon_pages
    else:
        done = run(case, ram)
        ballooned, falls = sent_pages(case, ram, done), done.falls
        device, wall_ns = done.devices[case.operation], sum(step.wall_ns for step in done.steps)
        work = Work.of(done.steps, device.n_translations, device.n_discards)
        times = stage_times(case.operation, done.log, device.log, wall_ns)
    check |= {"rss_fall_bytes": falls.rss_bytes, "deferred_huge_pages": falls.deferred}
    check |= check_after(case, ram, ballooned, count_lost if case.touched else none_lost)
    held = ram.read_back(ballooned) if case.touched else (0, 0, 0)
    check |= check_freed(case, ballooned, falls.held_bytes, held, falls.mapped)
    if number != WARM_UP:  # which compiles, and grows
        check_rss_fall(case, falls.rss_bytes)
    return Repeat.of(case, run_id, number, work, times, **check)


def operate(
    case: Case,
    ram: GuestRam,
    vcpu: InVcpu | None = None,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Operated:
    """Run a case's operation, step by step, by a thread or `vcpu`, each within `beside`.

    Apart from the checks, so that the guest's lists (20 bytes per page) are gone by then.
    """
    settings = (case.protocol, case.policy, case.wait)
    guest = machine(
        ram, case.allocator(), *settings, bitmaps=case.bitmaps, operations=2 * case.steps,
        vcpu=vcpu, chunks=case.allocation == "chunk", kick_pages=case.kick_pages,
        in_flight=case.in_flight, beside=beside,
    )  # fmt: skip
    with guest as running:
        driver = running.driver
        if case.operation == "deflate":
            driver.inflate(case.balloon_pages)
            driver.log.clear()
        before = Falls.now(ram)
        steps = [driver.set_target(target) for target in case.targets()]
        for device in running.devices.values():
            device.settle()
        falls = before.since(ram)
    return Operated(steps, driver.log, running.devices, falls)


def sent_pages(case: Case, ram: GuestRam, done: Operated) -> Pages:
    """Return which pages of RAM were sent; refuses faults and failed calls."""
    faults: Counter[str] = Counter()
    for device in done.devices.values():
        faults.update(device.faults())
    if not wire.get(case.protocol).names_each_page_once:  # it sends pages again
        faults.pop(DESCRIPTIONS[REPEATED], None)
    errors = sum(device.n_discard_errors for device in done.devices.values())
    if errors or faults:
        raise RuntimeError(
            f"the operation went wrong: {errors} calls that discard failed, bad records "
            f"{dict(faults)}; nothing is reported"
        )
    ballooned = np.zeros(case.memory_pages, bool)
    for step in done.steps:
        ballooned[ram.page_index(step.pages)] = True
    return ballooned


def discard_once(case: Case, ram: GuestRam) -> tuple[Times, Falls, int]:
    """Discard the first ``case.balloon_bytes`` of RAM; return times, falls and calls.

    A call for each of the case's threads. Nothing is allocated, sent or translated: only the host's
    discard is left, by the same compiled function that the device uses.
    """
    extents, cell = np.array([[0, case.balloon_bytes]], np.int64), np.zeros(2, np.int64)
    policy = Policy("range", threads=case.threads)
    with Crew(policy, ram.memory, ram.verb(case.verb), 1) as crew:
        before = Falls.now(ram)
        begin = time.monotonic_ns()
        n_calls, failed, discard_ns = crew.timed_discard(extents, cell)
        wall_ns = time.monotonic_ns() - begin
    falls = before.since(ram)
    if failed:
        raise RuntimeError("one call over the balloon failed; nothing is reported")
    times = {("discard", "all"): discard_ns, ("remainder", "all"): wall_ns - discard_ns}
    return times, falls, n_calls
