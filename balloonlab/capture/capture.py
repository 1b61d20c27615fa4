"""Capture: boot a guest, bring it into a state, move its balloon, keep what it told."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..lab.case import spell
from ..lab.progress import Progress
from ..lab.provenance import commit
from ..lab.resources import OVERHEAD_BYTES, available_bytes
from ..pages import check_in_ram, traces
from ..sizes import MIB, PAGE_BYTES, Size, format_size, parse_size
from . import kernel as kernels
from .errors import CaptureError
from .guest import ACCELERATORS, PATIENCE_S, QEMU, Guest, missing
from .kernel import Kernel
from .states import ALL_SHARES, AT_ALL_SHARES, FULL_SIZES, MOST, STATES, available_target
from .told import DEFLATE, INFLATE, settle

LEAST_BYTES = 256 * MIB
"""Memory in which the kernel boots and has something left."""

STALLED_S = 15.0
"""Seconds without a page after which the guest has no more; its driver tries again every 0.2 s."""

ALL = "all"

Report = Callable[[str], None]


class Wanted(NamedTuple):
    """What is to be captured; `make` builds one from what users write."""

    state: str
    memory_bytes: int
    share: float
    seed: int = 1

    @classmethod
    def make(cls, state: str, memory: Size, share: float, seed: int = 1) -> Wanted:
        """Check the arguments of `record`; see there."""
        if state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
        memory_bytes = parse_size(memory, "memory")
        if memory_bytes % MIB or memory_bytes < LEAST_BYTES:
            raise ValueError(
                f"memory must be whole MiB and at least {format_size(LEAST_BYTES)} for a Linux "
                f"guest, got {memory!r}"
            )
        percent = round(100 * share)
        if not 1 <= percent <= 99 or not math.isclose(percent, 100 * share):
            raise ValueError(f"share must be 0.01 to 0.99 in whole percent, got {share!r}")
        if not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, got {seed!r}")
        return cls(state, memory_bytes, percent / 100, int(seed))

    @property
    def name(self) -> str:
        """Name the capture, as in ``idle-8GiB-85``."""
        return f"{self.state}-{spell(self.memory_bytes)}-{round(100 * self.share)}"


class Captured(NamedTuple):
    """What a capture gave."""

    guest: dict[str, Any]  # how it was made: kernel, workload, buddyinfo and so on
    pages: dict[str, npt.NDArray[np.uint64]]  # of each operation, by the name of its trace


def plan(
    states: Iterable[str] = (ALL,),
    memory: Iterable[Size] | None = None,
    share: Iterable[float] | None = None,
    seed: int = 1,
) -> list[Wanted]:
    """List captures: of all states those that come with balloonlab, else every combination.

    Parameters
    ----------
    states : iterable of str
        Of `STATES`, or ``all``.
    memory : iterable of int or str, optional
        Sizes of the guests; 2, 4 and 8 GiB by default.
    share : iterable of float, optional
        Shares of the memory; by default 0.85, and for some states 0.25 and 0.5, too.
    seed : int
        Of what the guests do at random.

    Raises
    ------
    ValueError
        As `record`.
    """
    chosen = list(states)
    if ALL in chosen:
        chosen = list(STATES)
    sizes = list(FULL_SIZES if memory is None else memory)
    wanted = []
    for size in sizes:
        for state in chosen:
            at_all = parse_size(size, "memory") <= AT_ALL_SHARES.get(state, 0)
            defaults = ALL_SHARES if at_all else (MOST,)
            for part in defaults if share is None else share:
                wanted.append(Wanted.make(state, size, part, seed))
    return list(dict.fromkeys(wanted))


def record(
    state: str = "idle",
    memory: Size = "2GiB",
    share: float = 0.85,
    seed: int = 1,
    *,
    kernel: str | os.PathLike[str] | None = None,
    modules: str | os.PathLike[str] | None = None,
    accelerator: str | None = None,
    qemu: str = QEMU,
    patience_s: float = PATIENCE_S,
    report: Report = lambda text: None,
) -> Captured:
    """Boot a Linux guest, bring it into a state, inflate its balloon and deflate it again.

    The pages are those that the guest's own driver tells an unmodified QEMU's device, in
    that order, read from QEMU's trace events.

    Parameters
    ----------
    state : str
        One of `STATES`, which describe them.
    memory : int or str
        The guest's RAM, whole MiB.
    share : float
        Share of it that the balloon is to take; less where the guest has less available
        (`balloonlab.capture.states.available_target`).
    seed : int
        Of what the guest does at random.
    kernel, modules : path-like, optional
        Kernel image and the folder ``lib/modules/RELEASE`` of its modules; by default one that
        is installed here, or Debian's, downloaded into a cache (``BALLOONLAB_CACHE``).
    accelerator : {"kvm", "tcg"}, optional
        KVM where it works, else TCG, by default.
    qemu : str
        QEMU's system emulator for x86-64.
    patience_s : float
        Seconds of silence after which the guest counts as hung.
    report : callable
        Called with a line about what is going on.

    Returns
    -------
    Captured

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule.
    MemoryError
        The guest does not fit the memory that is available.
    CaptureError
        Something is missing, QEMU or the guest ended or hung, or pages were told that cannot
        be; nothing keeps running then.
    """
    wanted = Wanted.make(state, memory, share, seed)
    if accelerator is not None and accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator must be one of {ACCELERATORS}, got {accelerator!r}")
    lacks = missing(qemu, with_kernel=kernel is None)
    if lacks:
        raise CaptureError(f"a capture needs what is not here: {'; '.join(lacks)}")
    needed, available = wanted.memory_bytes + OVERHEAD_BYTES, available_bytes()
    if needed > available:
        raise MemoryError(
            f"memory={format_size(wanted.memory_bytes)} needs {format_size(needed)}, but only "
            f"{format_size(available)} are available here"
        )
    which = kernels.find(kernel, modules)
    choices = [accelerator] if accelerator else ["kvm", "tcg"] if _may_kvm() else ["tcg"]
    began = monotonic()
    with TemporaryDirectory(prefix="balloonlab-") as folder:
        report(f"{wanted.name}: boots")
        with _boot(which, wanted, choices, Path(folder), qemu, patience_s) as (guest, used):
            facts = _facts(wanted, guest) | {"accelerator": used}
            captured = _operate(wanted, guest, report)
    return Captured(
        {**facts, "seconds": round(monotonic() - began, 1), **captured.guest}, captured.pages
    )


def record_all(
    wanted: Iterable[Wanted],
    out: str | os.PathLike[str],
    *,
    progress: bool = True,
    **how: Any,
) -> Iterator[tuple[Wanted, Captured | None]]:
    """Capture into a folder of traces, one guest after the other; those there are passed over.

    Parameters
    ----------
    wanted : iterable of Wanted
        As `plan` lists them.
    out : path-like
        Folder for the traces, made if need be. A finished capture is on disk before the next
        one starts, and is not made again.
    progress : bool
        Show a progress bar when standard error is a terminal or in a notebook.
    **how
        ``kernel``, ``modules``, ``accelerator``, ``qemu``, ``patience_s`` of `record`.

    Yields
    ------
    wanted : Wanted
    captured : Captured or None
        None where the folder had it.
    """
    todo = list(wanted)
    with Progress(len(todo), progress) as bar:
        for one in todo:
            captured = None
            if not (Path(out) / f"{one.name}.json").exists():
                captured = record(
                    one.state, one.memory_bytes, one.share, one.seed, report=bar.describe, **how
                )
                traces.write(out, captured.guest, captured.pages)
            bar.advance()
            yield one, captured


def _may_kvm() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


@contextmanager
def _boot(
    which: Kernel,
    wanted: Wanted,
    accelerators: list[str],
    folder: Path,
    qemu: str,
    patience_s: float,
) -> Iterator[tuple[Guest, str]]:
    """Boot with the first accelerator that works: that there is a KVM does not say it does."""
    memory_pages, disk = wanted.memory_bytes // PAGE_BYTES, STATES[wanted.state].disk
    for accelerator in accelerators:
        try:
            guest = Guest(which, memory_pages, accelerator, folder, disk, qemu, patience_s)
        except CaptureError:
            if accelerator == accelerators[-1]:
                raise
            continue
        with guest:
            yield guest, accelerator
        return


def _facts(wanted: Wanted, guest: Guest) -> dict[str, Any]:
    """Say what the guest is."""
    number = guest.monitor.command("query-version")
    parts = number["qemu"]
    return {
        "name": wanted.name,
        "state": wanted.state,
        "description": STATES[wanted.state].text,
        "memory_bytes": wanted.memory_bytes,
        "share": wanted.share,
        "seed": wanted.seed,
        "kernel": guest.read("/proc/version").strip(),
        "command_line": guest.read("/proc/cmdline").strip(),
        "qemu": f"{parts['major']}.{parts['minor']}.{parts['micro']} {number['package']}".strip(),
        "cpus": 1,
        "utc_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "balloonlab": version("balloonlab"),
        "commit": commit(),
    }


def _operate(wanted: Wanted, guest: Guest, report: Report) -> Captured:
    """Bring the guest into its state, and move the balloon."""
    state = STATES[wanted.state]
    available = guest.available_bytes()
    at_boot = _buddyinfo(guest)
    workload = [f"seed {wanted.seed}", *state.commands(wanted.memory_bytes, available)]
    for command in workload:
        guest.run(command, _percent(report, f"{wanted.name}: {command.split()[0]}"))
    thp = guest.read("/sys/kernel/mm/transparent_hugepage/enabled")
    left = guest.available_bytes()
    target = available_target(wanted.memory_bytes // PAGE_BYTES, wanted.share, left)
    if target == 0:
        raise CaptureError(f"the guest has only {format_size(left)} available: no balloon fits")
    rows, pages = [], {}
    for cycle in range(1, state.cycles + 1):
        suffix = f"-{cycle}" if state.cycles > 1 else ""
        for operation in ("inflate", "deflate"):
            row, told = _move(wanted, guest, operation, target, report)
            name = f"{wanted.name}-{operation}{suffix}"
            rows.append({"name": name, "operation": operation, "cycle": cycle, **row})
            pages[name] = told
    facts = {
        "thp": thp.partition("[")[2].partition("]")[0],
        "available_bytes": {"at_boot": available, "before": left},
        "workload": workload,
        "buddyinfo_at_boot": at_boot,
        "traces": rows,
    }
    return Captured(facts, pages)


def _move(
    wanted: Wanted, guest: Guest, operation: str, target: int, report: Report
) -> tuple[dict[str, Any], npt.NDArray[np.uint64]]:
    """Inflate to `target` pages, or as far as the guest can, or deflate to none."""
    memory_pages = wanted.memory_bytes // PAGE_BYTES
    before = _buddyinfo(guest)
    start, held = guest.listener.n_events, guest.listener.n_held
    show = _percent(report, f"{wanted.name}: {operation}")
    if operation == "inflate":
        guest.set_balloon(memory_pages, target, STALLED_S, show)
        reached = guest.listener.n_held
        if reached != target:  # the guest has no more: have it stop trying
            guest.set_balloon(memory_pages, reached, STALLED_S, lambda share: None)
    else:
        guest.set_balloon(memory_pages, 0, STALLED_S, show)
    moved = abs(guest.listener.n_held - held)
    events = guest.listener.since(start)
    pages = settle(events, INFLATE if operation == "inflate" else DEFLATE)
    actual = memory_pages - _guest_pages(guest, memory_pages - guest.listener.n_held)
    if moved == 0 or actual != guest.listener.n_held or pages.size < moved:
        raise CaptureError(
            f"the guest's balloon holds {actual} pages after this {operation}, but "
            f"{guest.listener.n_held} by what QEMU traced, {pages.size} of them told now"
        )
    try:
        check_in_ram(pages, memory_pages)
    except ValueError as error:
        raise CaptureError(f"the guest's memory is not laid out as balloonlab's: {error}") from None
    row = {
        "target_pages": target if operation == "inflate" else 0,
        "n_moved": int(events.pfns.size - pages.size),
        "buddyinfo_before": before,
        "buddyinfo_after": _buddyinfo(guest),
    }
    return row, pages


def _guest_pages(guest: Guest, expected: int) -> int:
    """Ask the device for the memory outside the balloon, of which the driver tells it last."""
    pages = 0
    for _ in range(100):
        pages = guest.monitor.command("query-balloon")["actual"] // PAGE_BYTES
        if pages == expected:
            break
        guest.read("/proc/uptime")  # a round trip through the guest, whose turn it then is
    return pages


def _percent(report: Report, text: str) -> Callable[[float], None]:
    """Report a share in whole percent, each once."""
    said = -1

    def tell(share: float) -> None:
        nonlocal said
        if int(100 * share) != said:
            said = int(100 * share)
            report(f"{text} {said} %")

    return tell


def _buddyinfo(guest: Guest) -> dict[str, list[int]]:
    """Read the guest's free blocks of order 0, 1 and so on, by zone."""
    lines = guest.read("/proc/buddyinfo")
    found = re.findall(r"zone\s+(\w+)\s+([\d ]+)", lines)
    return {zone: [int(count) for count in counts.split()] for zone, counts in found}
