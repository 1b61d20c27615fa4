"""Measure balloons on real memory: one call, one tidy frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..qemu.protocols import PAGEBLOCK_ORDER
from ..sizes import Size
from ..terminal import Progress
from .case import Case, Pattern, make_case
from .hosts import describe_hosts, operate_once
from .provenance import describe_machine
from .runner import Trial, count_steps, run_trials
from .stages import SKIPPED_COLUMNS, check_columns, empty


@dataclass(frozen=True)
class Run:
    """What a measurement gave.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row for each case, repeat, stage and part; see
        `balloonlab.measurement.stages.COLUMNS`. ``time_ns`` of a repeat's rows sums to its
        wall time.
    meta : dict
        Machine, versions (QEMU's too, where it was the host), commit and UTC time.
    checks : pandas.DataFrame
        One row a repeat: pages backed by the host before and after, fall of the
        process's RSS, pages outside the balloon that lost their contents. Of repeats in
        QEMU also `balloonlab.measurement.stages.QEMU_CHECK_COLUMNS`: order of the blocks, quartiles
        of single round trips (empty, full but passed over, their difference, real), and
        QEMU's processor time a kick.
    skipped : pandas.DataFrame
        One row a case that a sweep could not measure, with the ``reason``; see
        `SKIPPED_COLUMNS`. Nothing in `frame` is of these cases.
    """

    frame: pd.DataFrame
    meta: dict[str, Any] = field(repr=False)
    checks: pd.DataFrame = field(repr=False)
    skipped: pd.DataFrame = field(default_factory=lambda: empty(SKIPPED_COLUMNS), repr=False)

    def measured(self) -> Run:
        """Leave out the repeats that a case made before it failed."""
        frame = self.frame[~self.frame["run_id"].isin(self.skipped["run_id"])]
        checks = self.checks[~self.checks["run_id"].isin(self.skipped["run_id"])]
        tables = (frame.reset_index(drop=True), checks.reset_index(drop=True))
        return Run(tables[0], self.meta, tables[1], self.skipped)


def measure(
    memory: Size | None = None,
    balloon: Size | None = None,
    protocol: str | None = None,
    pattern: Pattern = "idle",
    order: str = "as is",
    operation: str = "inflate",
    touched: bool = True,
    thp: bool = False,
    repeats: int = 5,
    host: str = "lab",
    discard: str | None = None,
    wait: str = "block",
    bitmaps: int = MAX_BITMAPS,
    steps: int = 1,
    block_order: int = PAGEBLOCK_ORDER,
    progress: bool = True,
) -> Run:
    """Inflate or deflate a balloon in a guest of real memory and time every stage.

    Guest driver and host device run as two threads of compiled code; messages go
    over a split virtqueue in shared memory, and the host discards real pages of a
    private mapping with ``madvise(MADV_DONTNEED)``. One warm-up repeat is made and
    dropped. With ``host="qemu"`` the device is that of an unmodified QEMU; see Notes.

    Parameters
    ----------
    memory : int or str, optional
        RAM of the guest, bytes or a string such as ``"8GiB"``; by default 8 GiB, or that of the
        guest that a trace was recorded from.
    balloon : int or str, optional
        Size of the balloon; by default 7/8 of the memory, or the size of the trace or array.
    protocol : str, optional
        How pages are told: one of `balloonlab.wire.formats`, by default ``"bitmap-v4"``. In
        QEMU ``"pfn"``, the default there, or ``"reporting"``: up to 32 free blocks a kick, a
        descriptor each (free page reporting, virtio 1.x section 5.5.6.7). It has no
        deflation: a guest takes its pages back without a word. The pattern's pages are free
        in the guest's allocator (``aged``: all that are), joined as far as they join; whole
        blocks are told up to the balloon's size, and ``n_pages`` and ``balloon_bytes`` count
        what was told.
    pattern : str or array-like of int
        Which pages: a spelling that `balloonlab.patterns.make` takes (``idle``, ``random``,
        ``huge``, ``aged``, ``every:8``, ``geometric:1.5``, ``trace:NAME``), or page numbers. What
        is drawn is drawn with ``rng=0``: the same arguments give the same pages everywhere.
    order : {"as is", "ascending", "descending", "shuffled"}
        In which order the allocator hands them out; ``"as is"`` is the pattern's own, or the
        array's. ``idle`` and ``aged`` then come from an allocator in that state, everything
        else (any other order, too) from a free list of exactly these pages. Shuffled with
        ``rng=0``.
    operation : {"inflate", "deflate"}
        What is timed. A deflation starts from a full balloon and empties it: pages are
        told newest first, announced with ``MADV_WILLNEED`` and released to the
        allocator (stage ``release`` in the place of ``allocate``).
    touched : bool
        Whether the host has pages behind all of the guest's RAM beforehand.
    thp : bool
        Whether the host may use transparent huge pages for the guest's RAM.
    repeats : int
        Measured repeats.
    host : {"lab", "qemu"}
        The device: balloonlab's own, or that of ``qemu-system-x86_64`` (6.0 or later).
    discard : {"page", "range"}, optional
        How the host applies the message; by default as the protocol's hosts do:
        ``"page"`` for ``pfn``, else ``"range"``. QEMU does nothing else.
    wait : {"block", "busy"}
        Whether the driver sleeps or polls until the host has answered. A driver that
        polls saves wake-ups but stays on its processor, which every ``madvise`` must
        then interrupt to flush its TLB (one shootdown a page in ``/proc/interrupts``):
        page-wise discard of touched memory took seven times as long.
    bitmaps : int
        Bitmaps of 32 KiB, each for 1 GiB of page numbers, that the guest has memory for,
        0 to 32. A driver short of them works in smaller windows; without a single one it
        falls back to ``pfn``. The frame's ``negotiated_protocol`` and ``n_bitmaps`` say
        what was used.
    steps : int
        In how many equal steps the balloon gets to its size; times and counts are sums. QEMU
        takes one step, waits by blocking and has no bitmaps: other values are refused.
    block_order : int
        Under ``"reporting"`` blocks have ``2**block_order`` pages, 0 to 10. Linux reports those
        of 9 and up (``pageblock_order``). The checks' ``block_order`` tells it.
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
        Memory did not change as it must have, or ``bitmap-v4-posted`` crashed its guest or
        left pages out; nothing is reported then.
    balloonlab.qemu.QemuError
        QEMU is missing, older than 6.0, died, or answered with an error; a ``RuntimeError``.

    Notes
    -----
    In QEMU every repeat has a process of its own: a ``microvm`` that is never run, whose
    virtio-balloon device is driven through its registers, without a guest kernel. Messages
    are written into the guest's memory by the same compiled code. A kick is a line of text
    over a socket (qtest) to QEMU's main thread: a wake-up there and back, as an ioeventfd
    has, but no exit from a guest. The used ring is looked at after every kick, the process's
    RSS and pages before and after. Rows have ``source="qemu"``; its stages are told apart by
    difference, as `balloonlab.measurement.stages_by_difference` describes.
    """
    case = Case.make(
        memory=memory,
        balloon=balloon,
        protocol=protocol,
        pattern=pattern,
        order=order,
        operation=operation,
        touched=touched,
        thp=thp,
        repeats=repeats,
        host=host,
        discard=discard,
        wait=wait,
        bitmaps=bitmaps,
        steps=steps,
        block_order=block_order,
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
    cases = [cases] if isinstance(cases, Mapping) else list(cases)
    if not all(isinstance(case, Mapping) for case in cases):
        raise TypeError(
            "cases must be a list of dicts of arguments, as in [{'protocol': 'pfn'}]; "
            f"got {cases!r}"
        )
    made = [make_case({**common, **case}) for case in cases]
    if not made:
        raise ValueError("cases must hold at least one case, got none")
    return _collect(made, progress)


def totals(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up a frame, a row a case: what the cases differ in, and the median total.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of `balloonlab.measure`, `balloonlab.compare` or `balloonlab.sweep`.

    Returns
    -------
    pandas.DataFrame
        The columns of the case in which not all rows are alike (``negotiated_protocol`` and
        ``n_bitmaps`` where a protocol has several), ``repeats``, and the median, least and
        greatest total of a repeat as ``median_ms``, ``min_ms``, ``max_ms``.
    """
    case = [name for name in SKIPPED_COLUMNS[1:] if name in frame.columns]
    differ = [name for name in case if len(frame[name].unique()) > 1]
    for name in ("negotiated_protocol", "n_bitmaps"):
        if len(frame.drop_duplicates(["protocol", name])) > len(frame["protocol"].unique()):
            differ.append(name)
    by_repeat = frame.groupby(["run_id", "repeat"], sort=False)["time_ns"].sum() / 1e6
    by_case = by_repeat.groupby("run_id", sort=False)
    table = frame.drop_duplicates("run_id").set_index("run_id")[differ]
    table = table.assign(
        repeats=by_case.size(),
        median_ms=by_case.median(),
        min_ms=by_case.min(),
        max_ms=by_case.max(),
    )
    return table.sort_values(differ or "median_ms", ignore_index=True)


def _collect(cases: list[Case], show: bool) -> Run:
    trials = [Trial(case, operate_once) for case in cases]
    hosts = {case.host for case in cases}
    with Progress(count_steps(trials), show) as progress:
        repeats = list(run_trials(trials, progress))
    return Run(
        pd.concat([repeat.frame for repeat in repeats], ignore_index=True),
        describe_machine() | describe_hosts(hosts),
        pd.DataFrame([repeat.check for repeat in repeats], columns=check_columns(hosts)),
    )
