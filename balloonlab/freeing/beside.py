"""What an inflation does to the rest of the guest: another thread's steps, by how it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..guest import InVcpu
from ..host import GuestRam
from ..measurement.case import Case
from ..measurement.on_kvm import VirtualMachine
from ..measurement.on_lab import operate, sent_pages
from ..measurement.options import PathLike, names_of
from ..measurement.setups import make_case, setup_of
from ..pages import patterns
from ..sizes import PAGE_BYTES, Size
from ..vcpu import Vcpu
from .bystander import Bystander
from .giving_back import GUESTS
from .turns import check_arguments, keep, take_turns

WAYS: dict[str, dict[str, Any]] = {
    "page": {"protocol": "pfn", "discard": "page"},
    "range": {"protocol": "pfn", "discard": "range"},
    "sorted": {"protocol": "pfn", "discard": "sorted"},
    "vector": {"protocol": "pfn", "discard": "vector"},
    "collected": {"protocol": "pfn", "discard": "sorted-vector", "collect": 32},
    "two threads": {"protocol": "pfn", "discard": "sorted-vector", "collect": 32, "threads": 2},
    "4096 PFNs": {"protocol": "pfn", "discard": "range", "kick_pages": 4096},
    "two in flight": {"protocol": "pfn", "discard": "range", "in_flight": 2},
    "bitmap-v4": {"protocol": "bitmap-v4"},
    "whole blocks": {"protocol": "bitmap-v4", "allocation": "chunk"},
}
"""Ways to inflate, by name: options of `balloonlab.measure`."""

MOST_PAGES = 4096
"""What the other thread works on: up to 16 MiB, more than a TLB holds."""

TABLE = "impact.csv"
COLUMNS = ["source", "way", "memory_bytes", "repeat", "wall_ns", "phase", "n_steps", "time_ns"]
COLUMNS += ["p50_ns", "p99_ns", "p999_ns", "max_ns"]


def impact(
    ways: Iterable[str] = tuple(WAYS),
    memory: Size = "1GiB",
    guests: Iterable[Literal["thread", "kvm"]] = GUESTS,
    repeats: int = 5,
    out: PathLike | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Inflate over touched memory while another thread of the guest works, and time its steps.

    A step adds 1 to 64 words drawn of up to 4096 pages outside the balloon, some 1 to 5 us. The
    thread first works alone, for 0.3 s; then beside the inflation, to which neither what is made
    ready before nor what is settled after belongs. A step's time begins where the last one ended,
    so whatever keeps the thread from running is in it: interrupts that flush its TLB, faults,
    another thread on its processor. The driver sleeps while the host discards, so on two processors
    the thread has one of its own unless the host has several threads or messages are in flight.
    What it wrote must be there afterwards.

    In ``kvm`` it runs in a second virtual processor of the same machine: when the host takes pages
    out of the machine's page tables, KVM has that processor flush its TLB, too.

    Parameters
    ----------
    ways : iterable of str
        Names of `balloonlab.freeing.WAYS`.
    memory : int or str
        RAM of the guest; 7/8 of it are ballooned.
    guests : iterable of {'thread', 'kvm'}
        Who runs the driver and the other thread.
    repeats : int
        Measured repeats of each way, after a warm-up.
    out : path-like, optional
        Folder for ``impact.csv`` and ``meta.json``; an earlier table is set aside.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        Two rows for each guest, way and repeat (``phase``: ``alone``, ``inflating``): ``source``,
        ``way``, ``memory_bytes``, ``repeat``, ``wall_ns`` of the inflation, ``n_steps``,
        ``time_ns`` of all steps, ``p50_ns``, ``p99_ns`` and ``p999_ns`` of a step (to 6 %), and
        ``max_ns``; all 0 where the thread did no step. Errors as of `balloonlab.measure`.

    Examples
    --------
    >>> import balloonlab as bl
    >>> frame = bl.impact(["page"], "16MiB", ["thread"], repeats=1, progress=False)
    >>> frame["phase"].tolist()
    ['alone', 'inflating']
    """
    check_arguments(out, TABLE, repeats)
    ways, guests = names_of("ways", ways, WAYS), names_of("guests", guests, GUESTS)
    cases = {
        make_case(memory=memory, guest=guest, **WAYS[way]).with_pages(): way
        for guest, way in product(guests, ways)
    }

    def once(case: Case, ram: GuestRam) -> Iterator[dict[str, Any]]:
        about = {"source": case.source, "way": cases[case], "memory_bytes": case.memory_bytes}
        return (about | row for row in _inflate(case, ram))

    rows, meta = take_turns(list(cases), repeats, progress, once)
    frame = rows[COLUMNS]
    size = int(frame["memory_bytes"].iloc[0])
    keep(frame, meta, out, TABLE, memory_bytes=size, guests=guests, ways=ways)
    return frame


def _inflate(case: Case, ram: GuestRam) -> list[dict[str, Any]]:
    """Do one repeat; return its two rows."""
    with ExitStack() as stack:
        guest = stack.enter_context(setup_of(case).use(case, ram))
        guest.touch()
        runner, other = None, None
        if isinstance(guest, VirtualMachine):
            runner, other = InVcpu(guest.vcpu), stack.enter_context(Vcpu(guest.vcpu))
        outside = _outside(case, ram)
        with Bystander(ram, outside, other) as bystander:
            done = operate(case, ram, runner, bystander.counting)
        ballooned = sent_pages(case, ram, done)
    if ballooned.sum() != case.balloon_pages or ballooned[outside // PAGE_BYTES].any():
        raise RuntimeError(
            f"{ballooned.sum()} pages were sent of {case.balloon_pages}, or some that the other "
            "thread works on; nothing is reported"
        )
    wall_ns = sum(step.wall_ns for step in done.steps)
    return [{"wall_ns": wall_ns, **phase} for phase in bystander.phases()]


def _outside(case: Case, ram: GuestRam) -> npt.NDArray[np.int64]:
    """Return pages that the balloon will not take, evenly over all there are; bytes into RAM."""
    taken = np.zeros(case.memory_pages, bool)
    pages = patterns.make(case.pattern, case.memory_bytes, case.balloon_bytes)
    taken[ram.page_index(pages)] = True
    free = np.flatnonzero(~taken)
    return free[:: max(1, -(-free.size // MOST_PAGES))] * PAGE_BYTES


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per source and way: the inflation, and the other thread beside it and alone.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `impact` returned, of one or several calls.

    Returns
    -------
    pandas.DataFrame
        ``source``, ``way``, ``wall_ms``, ``throughput`` (steps per second beside the inflation, as
        a share of those alone right before), and of a step ``p50_ns``, ``p99_ns``, ``p999_ns``,
        and the same ``alone``: medians of the repeats; ``throughput`` with its ``least`` and
        ``greatest``.
    """
    rates = (frame["n_steps"] / frame["time_ns"]).fillna(0.0)  # a thread that did no step
    frame = frame.assign(rate=rates, wall_ms=frame["wall_ns"] / 1e6)
    by = ["source", "way"]
    inflating, alone_ = (frame[frame["phase"] == name] for name in ("inflating", "alone"))
    times = ["p50_ns", "p99_ns", "p999_ns"]
    medians = inflating.groupby(by, sort=False)[["wall_ms", *times]].median()
    pair = [*by, "repeat"]
    shares = inflating.set_index(pair)["rate"] / alone_.set_index(pair)["rate"]
    share = shares.groupby(level=by, sort=False).agg(["median", "min", "max"])
    share.columns = pd.Index(["throughput", "throughput_least", "throughput_greatest"])
    alone_times = alone_.groupby("source")[times].median().add_prefix("alone_")
    table = medians.join(share).reset_index().merge(alone_times.reset_index(), on="source")
    order = {name: i for i, name in enumerate((*WAYS, "lab", "kvm"))}
    return table.sort_values(["way", "source"], key=lambda column: column.map(order))
