"""One repeat at QEMU's own balloon device, and what its guest's RAM looks like around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import wire
from ..address_map import ram_ranges
from ..guest import REPORTING, BalloonDriver, Operation
from ..host.ram import check_thp
from ..kernels.encode import BLOCKS_PER_KICK
from ..kernels.pfn import PFNS_PER_BUFFER
from ..qemu import FILL, FIRMWARE, NO_RAM_PFN, HostView, QemuProcess, QemuTransport, page_index
from .case import Case
from .resources import check_huge
from .stages import Repeat, Work
from .stages_by_difference import PAIRS, Rehearsal, quartiles, round_trips, stage_times

STRAY_PAGES = 256
"""Pages that firmware may have written in a guest that counts as untouched."""


def share(case: Case) -> None:
    """Map nothing: each repeat has a QEMU of its own; refuses huge pages where there are none."""
    if case.thp:
        check_thp(own_process=False)


@contextmanager
def use(case: Case, shared: None) -> Iterator[QemuProcess]:
    """Start a QEMU for one repeat.

    Memory that has lost its huge pages once does not get them back at the next touch, so a
    second repeat in the same process would be another measurement.
    """
    with QemuProcess(case.memory_pages, case.thp) as process:
        yield process


def operate_in_qemu(case: Case, process: QemuProcess, run_id: str, number: int) -> Repeat:
    """Rehearse the case's operation and carry it out once, in a fresh QEMU.

    ``n_translations`` and ``n_discards`` of its rows are what QEMU's source does with the
    messages, not counted in it; the checks look at the memory itself.
    """
    most_kicks = (case.balloon_pages >> case.block_order) // BLOCKS_PER_KICK + 1
    transport, log_rows = QemuTransport(process), 3 * most_kicks + 4 * PAIRS
    driver = BalloonDriver(transport, case.allocator(), wire.get("pfn"), log_rows)
    view = HostView(process.pid, case.memory_pages)
    before = _check_before(case, view)
    if case.operation == "deflate":
        driver.inflate(case.balloon_pages)
    rehearsal = _rehearse(driver, case, process)
    rss = view.rss_bytes()
    driver.log.clear()
    cpu_ns = process.cpu_ns()
    if case.protocol == REPORTING:
        done = driver.report(case.balloon_pages >> case.block_order, case.block_order)
    else:
        done = driver.set_target(case.balloon_pages if case.operation == "inflate" else 0)
    cpu_ns = process.cpu_ns() - cpu_ns
    check = {
        "rss_fall_bytes": rss - view.rss_bytes(),
        **before,
        **_check_after(case, view, done),
        "block_order": case.block_order,
        **rehearsal.summary(),
        **quartiles("real", round_trips(driver.log)),
        "real_cpu_ns": cpu_ns // done.n_kicks,
    }
    work = Work(
        negotiated_protocol=case.protocol,
        n_kicks=done.n_kicks,
        wire_bytes=done.wire_bytes,
        n_records=done.n_records,
        n_translations=done.n_records,
        n_discards=done.n_records,
    )
    times = stage_times(case.operation, driver.log, done, cpu_ns, rehearsal)
    return Repeat.of(case, run_id, number, work, times, **check)


def _rehearse(driver: BalloonDriver, case: Case, process: QemuProcess) -> Rehearsal:
    if case.protocol == REPORTING:
        # Blocks of the highest RAM: one with firmware in it would come as several pieces, of
        # which only the last lacks a byte.
        queue, end = REPORTING, ram_ranges(case.memory_pages)[-1].end >> case.block_order
        n_blocks = min(BLOCKS_PER_KICK, case.balloon_pages >> case.block_order)
        batch = np.full(n_blocks, (end - 1) << case.block_order, np.uint64)
    else:
        queue = case.operation
        batch = np.full(min(PFNS_PER_BUFFER, case.balloon_pages), NO_RAM_PFN, np.uint64)
    driver.log.clear()
    cpu_ns = process.cpu_ns()
    driver.rehearse(queue, batch, PAIRS, case.block_order)
    return Rehearsal.of(driver.log, process.cpu_ns() - cpu_ns)


def _check_before(case: Case, view: HostView) -> dict[str, Any]:
    """Refuse to time memory that is not in the state that the frame will claim."""
    resident = view.resident()
    huge = view.huge_bytes()
    resident_pages = int(resident.sum())
    resident[FIRMWARE] = True
    wrong = not resident.all() if case.touched else resident_pages > STRAY_PAGES
    if wrong or (huge and not case.thp):
        raise RuntimeError(
            f"QEMU's guest RAM is not as it should be for touched={case.touched}, "
            f"thp={case.thp}: {resident_pages} of {case.memory_pages} pages are backed, {huge} "
            "bytes by huge pages; is the process being swapped or its memory merged?"
        )
    check_huge(case.memory_bytes, case.touched and case.thp, huge)
    return {"resident_pages_before": resident_pages, "huge_bytes_before": huge}


def _check_after(case: Case, view: HostView, done: Operation) -> dict[str, Any]:
    """Check that all pages were sent, and that exactly those are gone."""
    first_pages = page_index(done.pages)
    ballooned = np.zeros(case.memory_pages, bool)
    ballooned[(first_pages[:, None] + np.arange(1 << case.block_order)).ravel()] = True
    missing = case.balloon_pages - int(ballooned.sum())
    resident = view.resident()
    seen = np.ones(case.memory_pages, bool)
    seen[FIRMWARE] = False
    left = int((resident & ballooned & seen).sum())
    lost = view.count_other(seen & ~ballooned, FILL) if case.touched else 0
    if missing or left or lost:
        raise RuntimeError(
            f"the operation went wrong in QEMU: {missing} pages not sent, {left} ballooned pages "
            f"are still backed, {lost} pages outside the balloon lost their contents; nothing "
            "is reported"
        )
    return {
        "resident_pages_after": int(resident.sum()),
        "balloon_pages": int(ballooned.sum()),
        "lost_pages": lost,
    }
