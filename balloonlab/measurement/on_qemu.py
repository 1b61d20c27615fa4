"""One repeat at QEMU's own balloon device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .. import wire
from ..address_map import ram_ranges
from ..guest import REPORTING, BalloonDriver, Operation
from ..host.ram import check_thp, deferred_huge_pages
from ..kernels.encode import BLOCKS_PER_KICK
from ..kernels.pfn import PFNS_PER_BUFFER
from ..qemu import FILL, FIRMWARE, NO_RAM_PFN, HostView, QemuProcess, QemuTransport, page_index
from .case import Case
from .checks import Pages, check_after, check_before, check_freed, none_lost
from .stages import Repeat, Work
from .stages_by_difference import PAIRS, Rehearsal, quartiles, round_trips, stage_times

VERBS_OF = {"anonymous": ("dontneed",), "memfd": ("punch",), "hugetlb": ("punch",)}
"""What QEMU can have behind RAM, and its call. Of a memfd it drops the mapping, too."""

STRAY_PAGES = 256  # which firmware may have written in a guest that counts as untouched


def share(case: Case) -> None:
    """Map nothing: each repeat has a QEMU of its own; refuses huge pages where there are none."""
    if case.thp:
        check_thp(own_process=False, shared=case.backing == "memfd")


def use(case: Case, shared: None) -> QemuProcess:
    """Start a QEMU for one repeat: huge pages once lost do not come back at the next touch."""
    return QemuProcess(case.memory_pages, case.thp, case.backing)


def operate_in_qemu(case: Case, process: QemuProcess, run_id: str, number: int) -> Repeat:
    """Rehearse the case's operation and carry it out once, in a fresh QEMU.

    ``n_translations`` and ``n_discards`` of its rows are what QEMU's source does with the
    messages, not counted in it; the checks look at the memory itself.
    """
    most_kicks = (case.balloon_pages >> case.block_order) // BLOCKS_PER_KICK + 1
    transport, log_rows = QemuTransport(process), 3 * most_kicks + 4 * PAIRS
    driver = BalloonDriver(transport, case.allocator(), wire.get("pfn"), log_rows)
    view = HostView(process.pid, case.memory_pages, case.backing)
    check = check_before(case, view, FIRMWARE, STRAY_PAGES)
    if case.operation == "deflate":
        driver.inflate(case.balloon_pages)
    rehearsal = _rehearse(driver, case, process)
    rss, held_bytes, deferred = view.rss_bytes(), view.held_bytes(), deferred_huge_pages()
    driver.log.clear()
    cpu_ns = process.cpu_ns()
    if case.protocol == REPORTING:
        done = driver.report(case.balloon_pages >> case.block_order, case.block_order)
    else:
        done = driver.set_target(case.balloon_pages if case.operation == "inflate" else 0)
    cpu_ns = process.cpu_ns() - cpu_ns
    check |= {
        "rss_fall_bytes": rss - view.rss_bytes(),
        "deferred_huge_pages": deferred_huge_pages() - deferred,
        **_check_after(case, view, done, held_bytes),
        "block_order": case.block_order,
        **rehearsal.summary(),
        **quartiles("real", round_trips(driver.log)),
        "real_cpu_ns": cpu_ns // done.n_kicks,
    }
    work = Work.of([replace(done, negotiated_protocol=case.protocol)], *2 * [done.n_records])
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


def _check_after(case: Case, view: HostView, done: Operation, held_bytes: int) -> dict[str, int]:
    def count_lost(ballooned: Pages) -> int:
        seen = ~ballooned
        seen[FIRMWARE] = False
        return view.count_other(seen, FILL)

    ballooned = np.zeros(case.memory_pages, bool)
    blocks = page_index(done.pages)[:, None] + np.arange(1 << case.block_order)
    ballooned[blocks.ravel()] = True
    freed_bytes, mapped = held_bytes - view.held_bytes(), view.mapped()
    check = check_after(case, view, ballooned, count_lost if case.touched else none_lost, FIRMWARE)
    ballooned[FIRMWARE] = False  # nobody sees what was discarded there
    other, old = (view.count_other(ballooned, value) if case.touched else 0 for value in (0, FILL))
    n_pages = int(ballooned.sum()) if case.touched else 0
    held = n_pages - other, n_pages - old, other + old - n_pages
    hidden = FIRMWARE.stop - FIRMWARE.start
    return check | check_freed(case, ballooned, freed_bytes, held, mapped, hidden)
