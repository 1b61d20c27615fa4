"""Capture: boot a guest, bring it into a state, move its balloon, keep the pages it sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from ..measurement.resources import OVERHEAD_BYTES, available_bytes
from ..pages import traces
from ..sizes import PAGE_BYTES, Size, format_size
from ..terminal import Progress
from . import linux_image
from .booted import ACCELERATORS, PATIENCE_S, QEMU, BootedGuest, missing
from .errors import CaptureError
from .linux_image import Kernel
from .planning import Planned
from .session import Captured, Report, describe, run_session
from .states import STATES


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

    The pages are those that the guest's own driver sends to an unmodified QEMU's device, in
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
        Something is missing, QEMU or the guest ended or hung, or pages came that are not RAM;
        nothing keeps running then.
    """
    wanted = Planned.make(state, memory, share, seed)
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
    which = linux_image.find(kernel, modules)
    choices = [accelerator] if accelerator else ["kvm", "tcg"] if _may_kvm() else ["tcg"]
    began = monotonic()
    with TemporaryDirectory(prefix="balloonlab-") as folder:
        report(f"{wanted.name}: boots")
        with _boot(which, wanted, choices, Path(folder), qemu, patience_s) as (guest, used):
            facts = describe(wanted, guest) | {"accelerator": used}
            captured = run_session(wanted, guest, report)
    return Captured(
        {**facts, "seconds": round(monotonic() - began, 1), **captured.guest}, captured.pages
    )


def record_all(
    wanted: Iterable[Planned],
    out: str | os.PathLike[str],
    *,
    progress: bool = True,
    **how: Any,
) -> Iterator[tuple[Planned, Captured | None]]:
    """Capture into a folder of traces, one guest after the other; skip those that it has.

    Parameters
    ----------
    wanted : iterable of Planned
        As `plan` returns them.
    out : path-like
        Folder for the traces, made if need be. A finished capture is on disk before the next
        one starts, and is not made again.
    progress : bool
        Show a progress bar when standard error is a terminal or in a notebook.
    **how
        ``kernel``, ``modules``, ``accelerator``, ``qemu``, ``patience_s`` of `record`.

    Yields
    ------
    wanted : Planned
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
    wanted: Planned,
    accelerators: list[str],
    folder: Path,
    qemu: str,
    patience_s: float,
) -> Iterator[tuple[BootedGuest, str]]:
    """Boot with the first accelerator that works: a KVM that is there may still fail."""
    memory_pages, disk = wanted.memory_bytes // PAGE_BYTES, STATES[wanted.state].disk
    for accelerator in accelerators:
        try:
            guest = BootedGuest(which, memory_pages, accelerator, folder, disk, qemu, patience_s)
        except CaptureError:
            if accelerator == accelerators[-1]:
                raise
            continue
        with guest:
            yield guest, accelerator
        return
