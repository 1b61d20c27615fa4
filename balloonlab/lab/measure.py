"""Measure inflations on real memory: one call, one tidy frame."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from ..sizes import Size
from .case import Case, Pattern
from .progress import Progress
from .provenance import describe_machine
from .resources import check_available
from .stages import Work, make_frame, stage_times


@dataclass(frozen=True)
class Repeat:
    """One measured repeat: its rows, and what memory looked like around it."""

    frame: pd.DataFrame
    check: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a measurement gave.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row for each case, repeat, stage and part; see
        `balloonlab.lab.stages.COLUMNS`. ``time_ns`` of a repeat's rows sums to its
        wall time.
    meta : dict
        Machine, versions, commit and UTC time.
    checks : pandas.DataFrame
        One row a repeat: pages backed by the host before and after, fall of the
        process's RSS, pages outside the balloon that lost their contents.
    """

    frame: pd.DataFrame
    meta: dict[str, Any] = field(repr=False)
    checks: pd.DataFrame = field(repr=False)


def measure(
    memory: Size = "8GiB",
    balloon: Size | None = None,
    protocol: str = "bitmap-v4",
    pattern: Pattern = "idle",
    operation: str = "inflate",
    touched: bool = True,
    thp: bool = False,
    repeats: int = 5,
    host: str = "lab",
    discard: str | None = None,
    wait: str = "block",
    progress: bool = True,
) -> Run:
    """Inflate a balloon in a guest of real memory and time every stage.

    Guest driver and host device run as two threads of compiled code; messages go
    over a split virtqueue in shared memory, and the host discards real pages of a
    private mapping with ``madvise(MADV_DONTNEED)``. One warm-up repeat is made and
    dropped.

    Parameters
    ----------
    memory : int or str
        RAM of the guest, bytes or a string such as ``"8GiB"``.
    balloon : int or str, optional
        Size of the balloon, 7/8 of the memory by default.
    protocol : str
        How pages are told: one of `balloonlab.wire.formats`.
    pattern : str or array-like of int
        Which pages: a name in `balloonlab.patterns`, or page numbers in order.
    operation : {"inflate"}
    touched : bool
        Whether the host has pages behind all of the guest's RAM beforehand.
    thp : bool
        Whether the host may use transparent huge pages for the guest's RAM.
    repeats : int
        Measured repeats.
    host : {"lab"}
        The device: balloonlab's own.
    discard : {"page", "range"}, optional
        How the host applies the message; by default as the protocol's hosts do:
        ``"page"`` for ``pfn``, else ``"range"``.
    wait : {"block", "busy"}
        Whether the driver sleeps or polls until the host has answered.
    progress : bool
        Show a progress bar when standard error is a terminal or in a notebook.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule; the message names it.
    MemoryError
        The guest does not fit the memory that is available (or a cgroup's limit).
    NotImplementedError
        The platform lacks what measuring needs; the message lists it.
    RuntimeError
        Memory did not change as it must have; nothing is reported then.
    """
    case = Case.make(
        memory, balloon, protocol, pattern, operation, touched, thp, repeats, host, discard, wait
    )
    return _collect([case], progress)


def compare(cases: Iterable[Mapping[str, Any]], progress: bool = True, **common: Any) -> Run:
    """Measure several cases into one frame.

    Parameters
    ----------
    cases : iterable of mappings
        Arguments of `measure` in which the cases differ.
    progress : bool
        As in `measure`.
    **common
        Arguments of `measure` that all cases share.

    Returns
    -------
    Run
        Each case has a ``run_id`` of its own in the frame.

    Examples
    --------
    >>> both = [{"protocol": "pfn"}, {"protocol": "bitmap-v4"}]
    >>> run = compare(both, memory="64MiB", repeats=1, progress=False)  # doctest: +SKIP
    """
    defaults = {
        "memory": "8GiB", "balloon": None, "protocol": "bitmap-v4", "pattern": "idle",
        "operation": "inflate", "touched": True, "thp": False, "repeats": 5, "host": "lab",
        "discard": None, "wait": "block",
    }  # fmt: skip
    made = []
    for case in cases:
        arguments = {**defaults, **common, **case}
        unknown = set(arguments) - set(defaults)
        if unknown:
            raise TypeError(
                f"unknown argument {', '.join(sorted(unknown))}: a case takes {', '.join(defaults)}"
            )
        made.append(Case.make(**arguments))
    if not made:
        raise ValueError("cases must hold at least one case, got none")
    return _collect(made, progress)


def _collect(cases: list[Case], show: bool) -> Run:
    with Progress(sum(case.repeats + 1 for case in cases), show) as progress:
        repeats = [repeat for case in cases for repeat in run_case(case, progress)]
    return Run(
        pd.concat([repeat.frame for repeat in repeats], ignore_index=True),
        describe_machine(),
        pd.DataFrame([repeat.check for repeat in repeats]),
    )


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


def run_case(case: Case, progress: Progress) -> Iterator[Repeat]:
    """Measure a case, repeat by repeat, after one warm-up that is dropped."""
    check_facilities()
    check_available(case.memory_bytes, case.touched)
    run_id = uuid.uuid4().hex[:12]
    ram = GuestRam(case.memory_pages, case.thp)
    for number in range(-1, case.repeats):
        name = "warm-up" if number < 0 else f"repeat {number + 1} of {case.repeats}"
        progress.describe(f"{case.label()}: {name}")
        if case.touched:
            with progress.bytes("touching memory", case.memory_bytes) as advance:
                ram.touch(advance)
        repeat = _run_once(case, ram, run_id, number)
        progress.advance()
        if number >= 0:
            yield repeat


def _run_once(case: Case, ram: GuestRam, run_id: str, number: int) -> Repeat:
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
