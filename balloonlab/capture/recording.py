"""Capture: boot a guest, bring it into a state, move its balloon, keep the pages it sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from ..linux import GuestError, check_room
from ..linux import missing as missing_natively
from ..measurement.options import PathLike
from ..measurement.resources import check_available
from ..pages import traces
from ..pages.checks import not_one_of
from ..sizes import Size
from ..terminal import Progress
from . import linux_image, planning
from .booted import ACCELERATORS, KVM_PATIENCE_S, PATIENCE_S, QEMU, BootedGuest, missing
from .native import NativeGuest
from .planning import Planned
from .session import Captured, Report, describe, run_session


def record(
    state: str = "idle",
    memory: Size = "2GiB",
    share: float = 0.85,
    seed: int = 1,
    *,
    guest: str = planning.QEMU,
    linux: str | os.PathLike[str] | None = None,
    kernel: str | os.PathLike[str] | None = None,
    modules: str | os.PathLike[str] | None = None,
    accelerator: str | None = None,
    qemu: str = QEMU,
    patience_s: float = PATIENCE_S,
    report: Report = lambda text: None,
) -> Captured:
    """Boot a Linux guest, bring it into a state, inflate its balloon and deflate it again.

    The pages are those that the guest's own driver sends to an unmodified QEMU's device, in
    that order, read from QEMU's trace events; or to balloonlab's device, over vhost-user, from a
    guest that is an ordinary process.

    Parameters
    ----------
    state : str
        One of `STATES`.
    memory : int or str
        The guest's RAM, whole MiB.
    share : float
        Share of it that the balloon is to take; less where the guest has less available
        (`balloonlab.linux.states.available_target`).
    seed : int
        Of what the guest does at random.
    guest : {"qemu", "linux"}
        Who runs the guest: an unmodified QEMU, or itself as a process (User-Mode Linux), which has
        one zone of memory, boots in a second, and cannot be in states of much anonymous memory.
    linux : path-like, optional
        User-Mode Linux, for the latter; by default ``linux.uml`` on the search path.
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
    GuestError
        Something is missing, QEMU or the guest ended or hung, or pages came that are not RAM;
        nothing keeps running then.
    """
    wanted = Planned.make(state, memory, share, seed, guest)
    if guest == planning.NATIVE:
        return _record_natively(wanted, linux, modules, patience_s, report)
    if accelerator is not None and accelerator not in ACCELERATORS:
        raise not_one_of("accelerator", accelerator, ACCELERATORS)
    if lacks := missing(qemu, with_kernel=kernel is None):
        raise GuestError(f"a capture needs what is not here: {'; '.join(lacks)}")
    check_available(wanted.memory_bytes, touched=True)
    which = linux_image.find(kernel, modules)
    with TemporaryDirectory(prefix="balloonlab-") as folder:
        boot = partial(BootedGuest, which, wanted, Path(folder), qemu, patience_s)
        return _capture(wanted, lambda: _boot(boot, accelerator), report)


def _record_natively(
    wanted: Planned, linux: PathLike | None, modules: PathLike | None, patience_s: float,
    report: Report,
) -> Captured:  # fmt: skip
    if lacks := missing_natively(linux, modules):
        raise GuestError(f"a Linux guest needs what is not here: {'; '.join(lacks)}")
    check_available(wanted.memory_bytes, touched=True)
    check_room(wanted.memory_bytes)
    boot = partial(NativeGuest, wanted, linux, modules, patience_s)
    return _capture(wanted, boot, report)


def _capture(
    wanted: Planned, boot: Callable[[], BootedGuest | NativeGuest], report: Report
) -> Captured:
    """Boot a guest and record its session."""
    began = monotonic()
    report(f"{wanted.name}: boots")
    with boot() as guest:
        facts = describe(wanted, guest)
        captured = run_session(wanted, guest, report)
    facts["seconds"] = round(monotonic() - began, 1)
    return Captured(facts | captured.guest, captured.pages)


def record_all(
    wanted: Iterable[Planned], out: str | os.PathLike[str], *, progress: bool = True, **how: Any
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
        ``linux``, ``kernel``, ``modules``, ``accelerator``, ``qemu``, ``patience_s`` of `record`.

    Yields
    ------
    wanted : Planned
    captured : Captured, or None where the folder had it
    """
    todo = list(wanted)
    with Progress(len(todo), progress) as bar:
        for one in todo:
            captured = None
            if not (Path(out) / f"{one.name}.json").exists():
                captured = record(*one[:-1], guest=one.guest, report=bar.describe, **how)
                traces.write(out, captured.guest, captured.pages)
            bar.advance()
            yield one, captured


def _may_kvm() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def _boot(boot: Callable[..., BootedGuest], accelerator: str | None) -> BootedGuest:
    """Boot with KVM by default, or TCG where it fails: a KVM that is there need not work."""
    if accelerator is None and _may_kvm():
        with suppress(GuestError):
            return boot("kvm", KVM_PATIENCE_S)
    return boot(accelerator or "tcg")
