"""What it costs the guest to use memory again that its balloon gave back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..guest import InVcpu
from ..host import GuestRam
from ..host.ram import HUGE_BYTES
from ..kernels import contents
from ..sizes import PAGE_BYTES, Size
from .case import Case
from .on_kvm import VirtualMachine
from .on_lab import operate, sent_pages
from .options import Guest, check_choice, check_number
from .resources import check_available, check_facilities
from .runner import alone
from .setups import make_case, setup_of

GUESTS: tuple[Guest, ...] = ("thread", "kvm")


def give_back(
    memory: Size = "1GiB", guests: Iterable[Guest] = GUESTS, thp: bool = False, repeats: int = 5
) -> pd.DataFrame:
    """Inflate and deflate a balloon, then time the guest's first touch of each page again.

    The host puts a zeroed page behind each; a guest in a virtual machine needs an entry in its
    second-level page tables, too, which no thread does. Guests take turns; a warm-up of each is
    dropped.

    Parameters
    ----------
    memory : int or str
        RAM of the guest; 7/8 of it are ballooned.
    guests : iterable of {'thread', 'kvm'}
        Who touches, as in `balloonlab.measure`.
    thp : bool
        Whether the host may use transparent huge pages: then one touch brings 2 MiB.
    repeats : int
        Measured repeats of each guest.

    Returns
    -------
    pandas.DataFrame
        A row for each guest and repeat: ``source``, ``memory_bytes``, ``thp``, ``repeat``,
        ``unit_bytes`` (of what a touch brings), ``n_units`` and ``time_ns`` of all of them.
        Errors as of `balloonlab.measure`.

    Examples
    --------
    >>> give_back("16MiB", ["thread"], repeats=1)["n_units"].tolist()
    [3584]
    """
    check_facilities()
    check_number("repeats", repeats, 1)
    guests = list(guests)
    for guest in guests:
        check_choice("guests", guest, GUESTS)
    cases = [
        make_case(memory=memory, guest=guest, thp=thp, operation="deflate").with_pages()
        for guest in guests
    ]
    rows = []
    with alone():
        for case in cases:
            check_available(case.memory_bytes, case.touched)
            setup_of(case).describe(case)
        shared = [setup_of(case).share(case) for case in cases]
        for number in range(-1, repeats):
            for case, ram in zip(cases, shared, strict=True):
                rows.append({**_touch_again(case, ram), "repeat": number})
    frame = pd.DataFrame([row for row in rows if row["repeat"] >= 0])
    names = ["source", "memory_bytes", "thp", "repeat", "unit_bytes", "n_units", "time_ns"]
    return frame[names]


def _touch_again(case: Case, shared: GuestRam) -> dict[str, Any]:
    """Do one repeat; a RuntimeError where the host did not give what it was to give."""
    with setup_of(case).use(case, shared) as guest:
        guest.touch()
        vcpu = guest.vcpu if isinstance(guest, VirtualMachine) else None
        done = operate(case, shared, InVcpu(vcpu) if vcpu else None)
        ballooned = sent_pages(case, shared, done)
        offsets = _units(ballooned, HUGE_BYTES if case.thp else PAGE_BYTES)
        before = int(shared.resident().sum())
        arguments = shared.memory.ram, offsets
        if vcpu:
            vcpu.warm(contents.touch_at, np.empty(0, np.uint8), offsets, vcpu.clock.tsc)
            time_ns = vcpu.call(contents.touch_at, *arguments, vcpu.clock.tsc)
        else:
            time_ns = contents.touch_at(*arguments, np.zeros(2, np.int64))
    unit = HUGE_BYTES if case.thp else PAGE_BYTES
    back = (int(shared.resident().sum()) - before) * PAGE_BYTES
    if back != offsets.size * unit:
        raise RuntimeError(
            f"touching {offsets.size} pieces of {unit} bytes must bring as much memory, it brought "
            f"{back} bytes: are huge pages as thp={case.thp} asks for? Nothing is reported"
        )
    return {
        "source": case.source,
        "memory_bytes": case.memory_bytes,
        "thp": case.thp,
        "unit_bytes": unit,
        "n_units": offsets.size,
        "time_ns": time_ns,
    }


def _units(ballooned: npt.NDArray[np.bool_], unit: int) -> npt.NDArray[np.int64]:
    """Return the byte offsets of the pieces of RAM that were ballooned as a whole."""
    pages = unit // PAGE_BYTES
    whole = ballooned[: ballooned.size // pages * pages].reshape(-1, pages).all(axis=1)
    return np.flatnonzero(whole) * unit
