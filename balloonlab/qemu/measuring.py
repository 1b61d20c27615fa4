"""Measure QEMU's own balloon device: the same frame as the lab's, stages by difference."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..host.ram import check_thp
from ..kernels import clock
from ..kernels.buddy import N_ORDERS, free_blocks
from ..kernels.pfn import PFNS_PER_BUFFER
from ..lab.case import Case, Pattern
from ..lab.measure import Run
from ..lab.progress import Progress
from ..lab.provenance import describe_machine
from ..lab.stages import Work, make_frame
from ..lab.trials import Repeat, check_facilities
from ..layout import ram_ranges
from ..pages import Buddy
from ..sizes import MIB, PAGE_BYTES, Size, format_size
from .device import BLOCKS_PER_KICK, QemuBalloon, Telling
from .memory import FIRMWARE, HostView, page_index
from .process import BINARY, QemuProcess, find

PROTOCOLS = ("pfn", "reporting")

REHEARSED_PAIRS = 1000
"""Round trips with empty messages, and as many with full ones that are skipped."""

FILL = 0xA5
"""What touched memory is filled with."""

STRAY_PAGES = 256
"""Pages that firmware may have written in a guest that counts as untouched."""

_TOUCH_BYTES = 4 * MIB


def measure(
    memory: Size = "8GiB",
    balloon: Size | None = None,
    protocol: str = "pfn",
    pattern: Pattern = "idle",
    operation: str = "inflate",
    touched: bool = True,
    thp: bool = False,
    repeats: int = 5,
    order: int = 9,
    binary: str = BINARY,
    progress: bool = True,
) -> Run:
    """Inflate or deflate a balloon in an unmodified QEMU process and tell its stages apart.

    Every repeat has a QEMU of its own: a ``microvm`` that is never run, whose
    virtio-balloon device is driven through its registers. Messages are written into
    guest memory by compiled code and kicked over QEMU's qtest socket. One warm-up repeat
    is made and dropped.

    Parameters
    ----------
    memory : int or str
        RAM of the guest that can be ballooned, whole MiB.
    balloon : int or str, optional
        Size of the balloon, 7/8 of the memory by default.
    protocol : {"pfn", "reporting"}
        ``"pfn"``: 256 page numbers of 32 bits a kick. ``"reporting"``: up to 32 free
        blocks a kick, each a descriptor (free page reporting, virtio 1.x section 5.5.6.7).
    pattern : str or array-like of int
        Which pages, as of `balloonlab.measure`. Under ``"reporting"`` the pages are free
        in the guest's allocator, and all their whole blocks are told; ``n_pages`` and
        ``balloon_bytes`` count those.
    operation : {"inflate", "deflate"}
        What is timed. Free page reporting has no deflation: a guest uses a page again
        without a word.
    touched : bool
        Whether QEMU has pages behind all of the guest's RAM beforehand.
    thp : bool
        Whether QEMU gets transparent huge pages, which it asks for; False refuses them to
        its whole process (``PR_SET_THP_DISABLE``).
    repeats : int
        Measured repeats.
    order : int
        Blocks of ``2**order`` pages under ``"reporting"``, 0 to 10. Linux reports blocks of
        9 and up (``pageblock_order``). The checks' ``order`` tells it; 0 for ``"pfn"``.
    binary : str
        QEMU's name on the search path, or its path.
    progress : bool
        Show a progress bar when standard error is a terminal or in a notebook.

    Returns
    -------
    balloonlab.lab.Run
        Rows have ``source="qemu"``; see Notes. The checks also have the quartiles of single
        round trips, empty, full but skipped, and real (``empty_q1_ns`` and so on), of the
        pairs' difference (``translate_q1_ns``), and QEMU's processor time a kick
        (``skipped_cpu_ns``, ``real_cpu_ns``).

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule; the message names it.
    MemoryError
        The guest does not fit the memory that is available (or a cgroup's limit).
    QemuError
        QEMU is missing, older than 6.0, died, or answered with an error.
    RuntimeError
        Memory did not change as it must have; nothing is reported then.

    Notes
    -----
    The guest's own stages (``allocate`` or ``release``, and ``send``'s ``pack``) are timed
    as in the lab. QEMU is not changed, so its stages are told apart by what it does not do.
    Just before the real run, in the same process, come 1000 pairs of round trips that
    discard nothing: an empty message, which names no page, and a full one, which is decoded
    and looked up. And QEMU's processor time is read before and after each run.

    ================= ======================================================================
    ``translate``     kicks x median difference within the pairs; with the decoding (c)
    ``discard``       QEMU's processor time in the real run, less kicks x that of a full
                      message of the pairs (d)
    ``send``/notify   what the real round trips took beyond both: the kick, QEMU's work for
                      it, both wake-ups and whatever kept QEMU from running (b)
    ``remainder``     what of the wall time is in no interval of the driver's
    ================= ======================================================================

    They sum to the wall time of the real run. A difference below the noise can come out
    negative, and stays so. Three separate runs and medians of their round trips were tried:
    a wake-up takes 20 us or 70 us from one second to the next, and ``translate`` of equal
    repeats came out between -147 and 40 ms. The address in QEMU's own memory is looked for in
    ``discard``, where it cannot be told apart from outside.

    A kick is a line of text over a socket to QEMU's main thread: a wake-up there and back,
    as an ioeventfd has, but no exit from a guest.
    ``n_translations`` and ``n_discards`` are what QEMU's source does with the messages,
    not counted in it; the checks look at the memory itself.
    """
    case = make_case(
        memory=memory,
        balloon=balloon,
        protocol=protocol,
        pattern=pattern,
        operation=operation,
        touched=touched,
        thp=thp,
        repeats=repeats,
        order=order,
    )
    path, version = find(binary)
    with Progress(case.repeats + 1, progress) as shown:
        done = list(run_case(case, order, path, shown))
    return Run(
        pd.concat([repeat.frame for repeat in done], ignore_index=True),
        describe_machine() | {"qemu": ".".join(map(str, version))},
        pd.DataFrame([repeat.check for repeat in done]),
    )


def make_case(*, protocol: str, order: int, **arguments: Any) -> Case:
    """Check the arguments of `measure`, and that the guest fits; see there."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order < N_ORDERS:
        raise ValueError(f"order must be a whole number from 0 to {N_ORDERS - 1}, got {order!r}")
    case = Case.make(protocol="pfn", **arguments)
    if case.memory_bytes % MIB:
        raise ValueError(
            f"memory must be a multiple of 1 MiB for QEMU, got {arguments['memory']!r} "
            f"({case.memory_bytes} bytes)"
        )
    if case.thp:
        check_thp()
    check_facilities()
    if protocol == "pfn":
        return replace(case, host="qemu")
    if case.operation == "deflate":
        raise ValueError(
            "operation must be 'inflate' with protocol='reporting', got 'deflate': a guest "
            "takes a reported page back without telling anybody"
        )
    n_pages = _whole_blocks(case, order) << order
    return replace(case, host="qemu", protocol=protocol, discard="range", balloon_pages=n_pages)


def _whole_blocks(case: Case, order: int) -> int:
    """Count the blocks that reporting tells."""
    if case.pfns is None:
        if case.balloon_pages % (1 << order):
            raise ValueError(
                f"balloon must be a multiple of the blocks of order {order} "
                f"({format_size(PAGE_BYTES << order)}), got {format_size(case.balloon_bytes)}"
            )
        return case.balloon_pages >> order
    by_order = _free_in_blocks(case).free_blocks()[order:]
    n_blocks = int((by_order << np.arange(by_order.size)).sum())
    if n_blocks == 0:
        raise ValueError(
            f"pattern must hold a whole block of order {order} to be reported "
            f"({1 << order} pages, aligned), these {case.balloon_pages} pages hold none"
        )
    return n_blocks


def _free_in_blocks(case: Case) -> Buddy:
    """Make an allocator whose free memory is the case's pages, joined as far as they join."""
    if case.pfns is None:
        return Buddy.idle(case.memory_pages)
    buddy = Buddy(case.memory_pages)
    free_blocks(buddy.blocks, 0, case.pfns)
    return buddy


def run_case(case: Case, order: int, binary: str, progress: Progress) -> Iterator[Repeat]:
    """Run a case's repeats after one warm-up, which is dropped; each with a fresh QEMU.

    A process that has lost its huge pages once does not get them back at the next touch,
    so that a second repeat in it would be another measurement.
    """
    run_id = uuid.uuid4().hex[:12]
    for number in range(-1, case.repeats):
        name = "warm-up" if number < 0 else f"repeat {number + 1} of {case.repeats}"
        progress.describe(f"QEMU, {case.label()}: {name}")
        with QemuProcess(case.memory_pages, case.thp, binary) as process:
            if case.touched:
                _touch(process, progress)
            repeat = _operate_once(case, order, process, run_id, number)
        progress.advance()
        if number >= 0:
            yield repeat


def _touch(process: QemuProcess, progress: Progress) -> None:
    with progress.bytes("touching memory", process.memory_pages * PAGE_BYTES) as advance:
        for start, end in ram_ranges(process.memory_pages):
            for gpa in range(start * PAGE_BYTES, end * PAGE_BYTES, _TOUCH_BYTES):
                n_bytes = min(_TOUCH_BYTES, end * PAGE_BYTES - gpa)
                process.qtest.memset(gpa, n_bytes, FILL)
                advance(n_bytes)


def _operate_once(case: Case, order: int, process: QemuProcess, run_id: str, number: int) -> Repeat:
    """Rehearse and carry out one case in a fresh QEMU, and look at its memory."""
    reporting = case.protocol == "reporting"
    order = order if reporting else 0
    most_kicks = (case.balloon_pages >> order) // BLOCKS_PER_KICK + 1
    driver = QemuBalloon(process, log_rows=3 * most_kicks + 4 * REHEARSED_PAIRS)
    view = HostView(process.pid, case.memory_pages)
    before = _check_before(case, view)
    buddy = _free_in_blocks(case) if reporting else case.allocator()
    queue = case.protocol if reporting else case.operation
    if case.operation == "deflate":
        held = driver.inflate(buddy, case.balloon_pages).firsts
    rehearsal = _rehearse(driver, queue, case, order)
    rss = view.rss_bytes()
    driver.log.clear()
    if reporting:
        done = driver.report(buddy, case.balloon_pages >> order, order)
    elif case.operation == "inflate":
        done = driver.inflate(buddy, case.balloon_pages)
    else:
        done = driver.deflate(buddy, held)
    fall = rss - view.rss_bytes()
    check = {
        "run_id": run_id,
        "protocol": case.protocol,
        "operation": case.operation,
        "touched": case.touched,
        "repeat": number,
        "order": order,
        "rss_fall_bytes": fall,
        **before,
        **_check_after(case, order, view, done),
        **rehearsal.summary(),
        **_quartiles("real", _round_trips(driver.log)),
        "real_cpu_ns": done.cpu_ns // done.n_kicks,
    }
    work = Work(
        told_as=case.protocol,
        n_kicks=done.n_kicks,
        wire_bytes=done.wire_bytes,
        n_records=done.n_records,
        n_translations=done.n_records,
        n_discards=done.n_records,
    )
    times = _stage_times(case.operation, driver.log, done, rehearsal)
    return Repeat(make_frame(case, run_id, number, work, times), check)


def _round_trips(log: clock.Log) -> npt.NDArray[np.int64]:
    """List how long each round trip in a log took, in ns."""
    length = int(log.length[0])
    if length > log.rows.shape[0]:
        raise RuntimeError(f"{length} intervals overflowed a log of {log.rows.shape[0]} rows")
    rows = log.rows[:length]
    rows = rows[rows[:, 0] == clock.ROUND_TRIP]
    return rows[:, 2] - rows[:, 1]


def _quartiles(name: str, times_ns: npt.NDArray[np.int64]) -> dict[str, int]:
    values = np.percentile(times_ns, [25, 50, 75])
    return {f"{name}_q{i}_ns": int(value) for i, value in enumerate(values, 1)}


@dataclass(frozen=True)
class Rehearsal:
    """Pairs of round trips: with an empty message, and with a full one that is skipped."""

    empty_ns: npt.NDArray[np.int64]
    skipped_ns: npt.NDArray[np.int64]
    cpu_ns: int

    @property
    def translate_ns(self) -> int:
        """Tell how much longer a full message takes than an empty one."""
        return int(np.median(self.skipped_ns - self.empty_ns))

    @property
    def skipped_cpu_ns(self) -> int:
        """Tell how long QEMU works for a full message: half a pair, and half the difference."""
        return (self.cpu_ns // self.empty_ns.size + self.translate_ns) // 2

    def summary(self) -> dict[str, int]:
        """Summarize the pairs for the checks."""
        return {
            **_quartiles("empty", self.empty_ns),
            **_quartiles("skipped", self.skipped_ns),
            **_quartiles("translate", self.skipped_ns - self.empty_ns),
            "skipped_cpu_ns": self.skipped_cpu_ns,
        }


def _rehearse(driver: QemuBalloon, queue: str, case: Case, order: int) -> Rehearsal:
    if case.protocol == "pfn":
        batch = np.zeros(min(PFNS_PER_BUFFER, case.balloon_pages), np.uint64)
    else:
        # Blocks of the highest RAM: one with firmware in it would come as several pieces, of
        # which only the last lacks a byte.
        end = ram_ranges(case.memory_pages)[-1].end >> order
        n_blocks = min(BLOCKS_PER_KICK, case.balloon_pages >> order)
        batch = np.full(n_blocks, (end - 1) << order, np.uint64)
    driver.log.clear()
    done = driver.rehearse(queue, batch, REHEARSED_PAIRS, order)
    times_ns = _round_trips(driver.log)
    return Rehearsal(times_ns[0::2], times_ns[1::2], done.cpu_ns)


def _stage_times(
    operation: str, log: clock.Log, done: Telling, rehearsal: Rehearsal
) -> dict[tuple[str, str], int]:
    """Attribute the wall time of the real run; see the notes of `measure`."""
    rows = log.rows[: int(log.length[0])]
    sums = np.zeros(clock.RELEASE + 1, np.int64)
    np.add.at(sums, rows[:, 0], rows[:, 2] - rows[:, 1])
    translate = done.n_kicks * rehearsal.translate_ns
    discard = done.cpu_ns - done.n_kicks * rehearsal.skipped_cpu_ns
    stage, interval = ("allocate", clock.ALLOCATE)
    if operation == "deflate":
        stage, interval = ("release", clock.RELEASE)
    return {
        (stage, "all"): int(sums[interval]),
        ("send", "pack"): int(sums[clock.PACK]),
        ("send", "notify"): int(sums[clock.ROUND_TRIP]) - translate - discard,
        ("translate", "all"): translate,
        ("discard", "all"): discard,
        ("remainder", "all"): done.wall_ns - int(sums.sum()),
    }


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
    return {"resident_pages_before": resident_pages, "huge_bytes_before": huge}


def _check_after(case: Case, order: int, view: HostView, done: Telling) -> dict[str, Any]:
    """Check that all pages were told, and that exactly those are gone."""
    first_pages = page_index(done.firsts)
    ballooned = np.zeros(case.memory_pages, bool)
    ballooned[(first_pages[:, None] + np.arange(1 << order)).ravel()] = True
    missing = case.balloon_pages - int(ballooned.sum())
    resident = view.resident()
    seen = np.ones(case.memory_pages, bool)
    seen[FIRMWARE] = False
    left = int((resident & ballooned & seen).sum())
    lost = view.count_other(seen & ~ballooned, FILL) if case.touched else 0
    if missing or left or lost:
        raise RuntimeError(
            f"the operation went wrong in QEMU: {missing} pages not told, {left} ballooned pages "
            f"are still backed, {lost} pages outside the balloon lost their contents; nothing "
            "is reported"
        )
    return {
        "resident_pages_after": int(resident.sum()),
        "balloon_pages": int(ballooned.sum()),
        "lost_pages": lost,
    }
