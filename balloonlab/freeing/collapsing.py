"""Huge pages that discards of small pages break up, and what it takes to get them back."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..host import GuestRam
from ..host.ram import advise
from ..measurement.case import Case
from ..measurement.on_kvm import VirtualMachine
from ..measurement.options import PathLike, names_of
from ..measurement.setups import make_case, setup_of
from ..sizes import HUGE_BYTES, PAGE_BYTES, Size
from .giving_back import GUESTS, touch_again
from .turns import check_arguments, keep, take_turns

TABLE = "collapse.csv"
COLUMNS = ["source", "memory_bytes", "repeat", "n_pages", "touch_ns", "huge_bytes_before"]
COLUMNS += ["huge_bytes_after", "n_collapsed", "collapse_ns"]

MADV_COLLAPSE = 25  # Linux 6.1; Python does not name it


def collapse(
    memory: Size = "512MiB",
    guests: Iterable[Literal["thread", "kvm"]] = GUESTS,
    repeats: int = 5,
    out: PathLike | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Inflate over huge pages with ``pfn``, deflate, touch, and have the kernel collapse again.

    The balloon is half of the pages, at random, as a guest has them that ran for long: a discard of
    4 KiB breaks the huge page that it is of, and the touch brings small pages. Then the host asks
    for a huge page where each was (``MADV_COLLAPSE``), which copies 2 MiB.

    Parameters
    ----------
    memory : int or str
        RAM of the guest.
    guests : iterable of {'thread', 'kvm'}
        Who inflates and touches. Memory of a Linux guest is a shared file of small pages.
    repeats : int
        Measured repeats of each guest, after a warm-up.
    out : path-like, optional
        Folder for ``collapse.csv`` and ``meta.json``; an earlier table is set aside.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row for each guest and repeat: ``source``, ``memory_bytes``, ``repeat``, ``n_pages``
        touched again and ``touch_ns`` of all, ``huge_bytes_before`` (the inflation) and
        ``huge_bytes_after`` (the touch), ``n_collapsed`` huge pages that came back and
        ``collapse_ns`` of all. A ValueError where there are no transparent huge pages, a
        NotImplementedError where the kernel does not collapse (before Linux 6.1); else errors as of
        `balloonlab.measure`.

    Examples
    --------
    >>> import balloonlab as bl
    >>> bl.collapse("64MiB", "thread", repeats=1)  # doctest: +SKIP
    """
    check_arguments(out, TABLE, repeats)
    guests = names_of("guests", guests, GUESTS)
    cases = [
        make_case(
            memory=memory, balloon=0.5, guest=guest, thp=True, protocol="pfn", pattern="random",
            operation="deflate",
        ).with_pages()
        for guest in guests
    ]  # fmt: skip
    rows, meta = take_turns(cases, repeats, progress, _break_and_mend)
    frame = rows[COLUMNS]
    keep(frame, meta, out, TABLE, memory_bytes=cases[0].memory_bytes, guests=guests)
    return frame


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per source: what was broken, and what touching and collapsing took.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `collapse` returns.

    Returns
    -------
    pandas.DataFrame
        ``source``, ``lost`` (share of the huge pages), ``touch_us`` per page and ``collapse_us``
        per huge page: medians; of the two times the ``least`` and ``greatest`` repeat besides.
    """
    values = pd.DataFrame(
        {
            "source": frame["source"],
            "lost": 1 - frame["huge_bytes_after"] / frame["huge_bytes_before"],
            "touch_us": frame["touch_ns"] / frame["n_pages"] / 1e3,
            "collapse_us": frame["collapse_ns"] / frame["n_collapsed"] / 1e3,
        }
    ).groupby("source", sort=False)
    ends = {"least": values.min(), "greatest": values.max()}
    table = values.median()
    for name, end in ends.items():
        table = table.join(end[["touch_us", "collapse_us"]].add_prefix(f"{name}_"))
    return table.reset_index()


def _break_and_mend(case: Case, shared: GuestRam) -> Iterator[dict[str, Any]]:
    """Do one repeat; give its row."""
    with setup_of(case).use(case, shared) as guest:
        guest.touch()
        before = shared.huge_bytes()
        vcpu = guest.vcpu if isinstance(guest, VirtualMachine) else None
        n_pages, touch_ns = touch_again(case, shared, vcpu, PAGE_BYTES)
        after = shared.huge_bytes()
        collapse_ns = _collapse(shared)
        n_collapsed = (shared.huge_bytes() - after) // HUGE_BYTES
    if not n_collapsed or before == after:
        raise RuntimeError(
            f"a balloon of random pages must break huge pages and a collapse bring them back; of "
            f"{before} bytes {after} were left, and {n_collapsed} huge pages came back: is memory "
            "too fragmented (echo 1 > /proc/sys/vm/compact_memory as root)? Nothing is reported"
        )
    yield {
        "source": case.source,
        "memory_bytes": case.memory_bytes,
        "n_pages": n_pages,
        "touch_ns": touch_ns,
        "huge_bytes_before": before,
        "huge_bytes_after": after,
        "n_collapsed": n_collapsed,
        "collapse_ns": collapse_ns,
    }


def _collapse(ram: GuestRam) -> int:
    """Have the kernel put a huge page wherever one can be; return the ns of all calls.

    A page that is in use for a moment is passed over (EAGAIN, one in some hundreds).
    """
    pieces = np.arange(ram.memory_pages * PAGE_BYTES // HUGE_BYTES) * HUGE_BYTES
    begin_ns = time.monotonic_ns()
    for offset in pieces.tolist():
        try:
            advise(ram.memory.base_address + offset, HUGE_BYTES, MADV_COLLAPSE, "collapse")
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise NotImplementedError(
                f"collapsing needs MADV_COLLAPSE (Linux 6.1), which this kernel refuses ({error})"
            ) from None
    return time.monotonic_ns() - begin_ns
