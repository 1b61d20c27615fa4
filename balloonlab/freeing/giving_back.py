"""What it costs the guest to use memory again that its balloon gave back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..guest import InVcpu
from ..host import BACKINGS, GuestRam
from ..kernels import contents
from ..linux import LinuxGuest
from ..measurement.case import Case
from ..measurement.on_kvm import VirtualMachine
from ..measurement.on_lab import operate, sent_pages
from ..measurement.options import Guest, PathLike, names_of
from ..measurement.setups import make_case, setup_of
from ..qemu.protocols import REPORTING
from ..sizes import HUGE_BYTES, PAGE_BYTES, Size
from ..vcpu import Vcpu
from .turns import check_arguments, keep, take_turns

GUESTS: tuple[Literal["thread", "kvm"], ...] = ("thread", "kvm")
"""Who touches by default."""

MOST_MORE = 20
"""Which part of the pages may come the second time: Linux is free to use others then."""

TABLE = "give-back.csv"
COLUMNS = ["source", "backing", "memory_bytes", "thp", "deflated", "repeat"]
COLUMNS += ["unit_bytes", "n_units", "time_ns"]


def give_back(
    memory: Size = "1GiB",
    guests: Iterable[Guest] = GUESTS,
    thp: bool = False,
    repeats: int = 5,
    backings: Iterable[str] = (),
    deflate: bool = True,
    out: PathLike | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Inflate and deflate a balloon, then time the guest's first touch of each page again.

    Or touch what is in the balloon still, as a guest does that need not tell its host: with free
    page reporting, which Linux does by itself.

    The host puts a zeroed page behind each; a guest in a virtual machine needs an entry in its
    second-level page tables, too, which no thread does. Linux writes a file over its free memory
    twice: the host's part is by how much the first time takes longer. Guests on the same memory
    take turns; a warm-up of each is dropped.

    Parameters
    ----------
    memory : int or str
        RAM of the guest; 7/8 of it are ballooned.
    guests : iterable of {'thread', 'kvm', 'linux'}
        Who touches, as in `balloonlab.measure`.
    thp : bool
        Whether the host may use transparent huge pages: then one touch brings 2 MiB.
    repeats : int
        Measured repeats of each guest.
    backings : iterable of str
        What is behind RAM, as in `balloonlab.measure`; by default the first that a guest can have.
    deflate : bool
        Whether the balloon is deflated before. Without, a Linux guest reports its free blocks
        instead of inflating a balloon.
    out : path-like, optional
        Folder for ``give-back.csv`` and ``meta.json``; an earlier table is set aside.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row for each guest, backing and repeat: ``source``, ``backing``, ``memory_bytes``,
        ``thp``, ``deflated``, ``repeat``, ``unit_bytes`` (of what a touch brings), ``n_units`` and
        ``time_ns`` of all of them. Errors as of `balloonlab.measure`.

    Examples
    --------
    >>> give_back("16MiB", ["thread"], repeats=1)["n_units"].tolist()
    [3584]
    """
    check_arguments(out, TABLE, repeats)
    guests = names_of("guests", guests, get_args(Guest))
    kinds: list[str | None]
    kinds = [backings] if isinstance(backings, str) else [*backings] or [None]
    cases = [_case(memory, guest, thp, kind, deflate) for guest in guests for kind in kinds]
    rows, meta = take_turns(cases, repeats, progress, _take_back)
    frame = rows.assign(deflated=deflate)[COLUMNS]
    size = cases[0].memory_bytes
    keep(
        frame, meta, out, TABLE, memory_bytes=size, guests=guests, thp=thp, backings=kinds,
        deflate=deflate,
    )  # fmt: skip
    return frame


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return microseconds per piece by source and backing: median, least and greatest repeat.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `give_back` returns.
    """
    us = frame["time_ns"] / frame["n_units"] / 1e3
    by = [frame[name] for name in ("source", "backing", "deflated", "unit_bytes")]
    by_source = us.groupby(by, sort=False)
    return by_source.agg(median_us="median", least_us="min", greatest_us="max").reset_index()


def _case(memory: Size, guest: Guest, thp: bool, backing: str | None, deflate: bool) -> Case:
    options: dict[str, Any] = {"memory": memory, "guest": guest, "thp": thp, "backing": backing}
    if guest == "linux":
        return make_case(**options, protocol="pfn" if deflate else REPORTING, discard="range")
    return make_case(**options, operation="deflate" if deflate else "inflate").with_pages()


def _take_back(case: Case, shared: Any) -> Iterator[dict[str, Any]]:
    """Do one repeat; give its row."""
    if case.guest == "linux":
        unit, (n_units, time_ns) = PAGE_BYTES, _write_again(case)
    else:
        unit = HUGE_BYTES if case.thp else BACKINGS[case.backing].page_bytes
        with setup_of(case).use(case, shared) as guest:
            guest.touch()
            vcpu = guest.vcpu if isinstance(guest, VirtualMachine) else None
            n_units, time_ns = touch_again(case, shared, vcpu, unit)
    about = {name: getattr(case, name) for name in ("source", "backing", "memory_bytes", "thp")}
    yield {**about, "unit_bytes": unit, "n_units": n_units, "time_ns": time_ns}


def _write_again(case: Case) -> tuple[int, int]:
    """Return the pages that came back to a Linux guest, and what that took, by difference."""
    with setup_of(case).use(case, None) as guest:
        guest.load_driver()
        guest.back_all()
        if case.protocol == REPORTING:
            guest.report()
        else:
            guest.set_balloon(case.balloon_pages)
            guest.set_balloon(0)
        before = guest.ram.held_bytes()
        first_ns = _time_touch(guest)
        back = guest.ram.held_bytes() - before
        again_ns = _time_touch(guest)
        more = guest.ram.held_bytes() - before - back
    if back < case.balloon_bytes // 2 or more > back // MOST_MORE:
        raise RuntimeError(
            f"writing over free memory must bring most of {case.balloon_bytes} bytes back, and "
            f"hardly any the second time; it brought {back}, then {more}. Nothing is reported"
        )
    return (back - more) // PAGE_BYTES, first_ns - again_ns


def _time_touch(guest: LinuxGuest) -> int:
    begin_ns = time.monotonic_ns()
    guest.touch()
    return time.monotonic_ns() - begin_ns


def touch_again(case: Case, shared: GuestRam, vcpu: Vcpu | None, unit: int) -> tuple[int, int]:
    """Operate on touched RAM; return the pieces that a touch brought back, and what that took.

    Of 4 KiB in huge pages some may be back already: by default khugepaged makes 8 huge pages whole
    every 10 s. Those are left alone. A RuntimeError where the host did not give what it was to
    give, or the half of it is back; a ValueError where it was to give nothing.
    """
    done = operate(case, shared, InVcpu(vcpu) if vcpu else None)
    there = shared.resident()
    offsets = sent = _units(sent_pages(case, shared, done), unit)
    if not sent.size:
        raise ValueError(
            f"memory must be so large that its balloon holds a piece of {unit} bytes at least, got "
            f"{case.memory_bytes} bytes, of which the balloon has {case.balloon_bytes}"
        )
    if case.thp and unit < HUGE_BYTES:
        offsets = sent[~np.isin(sent // HUGE_BYTES, _units(there, HUGE_BYTES) // HUGE_BYTES)]
    before = int(there.sum())
    arguments = shared.memory.ram, offsets
    if vcpu:
        vcpu.warm(contents.touch_at, np.empty(0, np.uint8), offsets, vcpu.clock.tsc)
        time_ns = vcpu.call(contents.touch_at, *arguments, vcpu.clock.tsc)
    else:
        time_ns = contents.touch_at(*arguments, np.zeros(2, np.int64))
    back = (int(shared.resident().sum()) - before) * PAGE_BYTES
    if back != offsets.size * unit or 2 * offsets.size < sent.size:
        raise RuntimeError(
            f"touching {offsets.size} pieces of {unit} bytes, of {sent.size} that were discarded, "
            f"must bring as much memory, it brought {back} bytes: are huge pages as "
            f"thp={case.thp} asks for? Nothing is reported"
        )
    return offsets.size, time_ns


def _units(which: npt.NDArray[np.bool_], unit: int) -> npt.NDArray[np.int64]:
    """Return the byte offsets of the pieces of RAM of which all pages are meant."""
    pages = unit // PAGE_BYTES
    whole = which[: which.size // pages * pages].reshape(-1, pages).all(axis=1)
    return np.flatnonzero(whole) * unit
