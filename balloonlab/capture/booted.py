"""A booted Linux guest in QEMU: takes commands, and every page of its balloon is recorded."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..linux import STATES, GuestError, initramfs
from ..linux.disk import make_disk
from ..linux.modules import ONLY_IF_THERE, read_modules
from ..linux.wire import Wire, explained
from ..sizes import MIB, PAGE_BYTES
from . import linux_image
from .linux_image import Kernel
from .planning import Planned
from .qmp import Monitor
from .trace_events import EVENTS, Listener

QEMU = "qemu-system-x86_64"
ACCELERATORS = ("kvm", "tcg")

COMMAND_LINE = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off"
"""A panic ends QEMU, which is started with ``-no-reboot``; nothing is placed at random."""

PATIENCE_S = 120.0
"""Seconds of silence after which a guest counts as hung; it reports 50 times per command."""

KVM_PATIENCE_S = 20.0
"""Seconds to boot with KVM, which takes two; a nested one may start a guest that does no step."""


def missing(qemu: str = QEMU, with_kernel: bool = True) -> list[str]:
    """Return what a capture needs and this machine lacks; empty where all is there.

    `qemu` is QEMU's system emulator for x86-64; `with_kernel` asks for a kernel, too.
    """
    lacks = []
    if shutil.which(qemu) is None:
        lacks.append(f"QEMU, {qemu} (Debian: apt-get install qemu-system-x86)")
    if initramfs.compiler() is None:
        lacks.append("a C compiler (Debian: apt-get install gcc libc6-dev)")
    if with_kernel and (problem := linux_image.obstacle()):
        lacks.append(problem)
    return lacks


class BootedGuest:
    """A booted guest. Ends, with its QEMU, at the end of the ``with`` block.

    `folder` is for its files. In all methods a `GuestError` means that QEMU or the guest ended,
    hung, or answered with an error; its message has the end of the guest's console. It counts as
    hung after `patience_s` of silence, or earlier, while it boots, after `boot_patience_s`.
    """

    def __init__(
        self, which: Kernel, wanted: Planned, folder: Path, qemu: str, patience_s: float,
        accelerator: str, boot_patience_s: float = inf,
    ) -> None:  # fmt: skip
        self.memory_pages, self.accelerator = wanted.memory_bytes // PAGE_BYTES, accelerator
        self._patience_s = patience_s
        self._console, self._errors = folder / "console", folder / "errors"
        self._console.touch()
        disk = STATES[wanted.state].disk
        of_disk = (*ONLY_IF_THERE, *linux_image.DISK) if disk else ()
        modules = read_modules(which.modules, linux_image.BALLOON + of_disk)
        (folder / "initramfs").write_bytes(initramfs.build(modules))
        devices = _disk(folder) if disk else []
        # The kernel is to end QEMU with this process, whatever ends that.
        with_us = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        command = [
            *with_us,
            *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            # RAM up to 3 GiB and from 4 GiB on, as in balloonlab.address_map, whatever the size.
            *("-machine", f"pc,accel={accelerator},max-ram-below-4g=3G"),
            *("-cpu", "host" if accelerator == "kvm" else "qemu64", "-smp", "1"),
            *("-m", f"{wanted.memory_bytes // MIB}M"),
            *("-kernel", str(which.image), "-initrd", str(folder / "initramfs")),
            *("-append", COMMAND_LINE),
            *("-chardev", f"file,id=console,path={self._console}", "-serial", "chardev:console"),
            *("-device", "virtio-balloon-pci,id=balloon", *devices),
            *(word for event in EVENTS for word in ("-trace", event)),
        ]
        self._open = ExitStack()
        try:
            self._start(command)
            self.wire.patience_s = min(patience_s, boot_patience_s)
            self.wire.expect("ready")
            self.wire.patience_s = patience_s
        except BaseException:
            self._open.close()
            raise

    def _start(self, command: list[str]) -> None:
        """Start QEMU, connected to us by sockets and a pipe."""
        ours, wire = socket.socketpair()
        self.wire = Wire(ours, self._patience_s, "QEMU", self._explained)
        self._open.callback(self.wire.close)
        own, monitor = socket.socketpair()
        source, events = os.pipe()
        with ExitStack() as theirs:
            for end in (wire, monitor):
                theirs.callback(end.close)
            theirs.callback(os.close, events)
            self._open.callback(own.close)
            own.settimeout(self._patience_s)
            command = [
                *command,
                *("-chardev", f"socket,id=wire,fd={wire.fileno()}", "-serial", "chardev:wire"),
                *("-chardev", f"socket,id=qmp,fd={monitor.fileno()}", "-mon", "qmp,mode=control"),
                *("-D", f"/dev/fd/{events}"),
            ]
            self.listener = Listener(source)
            self._open.callback(self.listener.join)
            errors = self._open.enter_context(self._errors.open("wb"))
            ends, nothing = (wire.fileno(), monitor.fileno(), events), subprocess.DEVNULL
            try:
                self._process = subprocess.Popen(
                    command, stdin=nothing, stdout=nothing, stderr=errors, pass_fds=ends
                )
            except OSError as error:
                raise GuestError(f"{command[0]} could not be started: {error}") from None
        self._open.callback(self._process.wait)
        self._open.callback(self._process.kill)
        try:
            self.monitor = Monitor(own)
        except GuestError as error:
            raise self._explained(str(error)) from None
        self._open.callback(self.monitor.close)

    def facts(self) -> dict[str, Any]:
        """Return what runs the guest, for the facts about a trace."""
        qemu = self.monitor.command("query-version")
        version = "{qemu[major]}.{qemu[minor]}.{qemu[micro]} {package}".format(**qemu).strip()
        return {"qemu": version, "accelerator": self.accelerator}

    def spare_bytes(self) -> int:
        """Return what the guest can give without harm: its ``MemAvailable``."""
        return self.wire.meminfo("MemAvailable")

    def in_address_map(self, pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return page numbers as `balloonlab.address_map` has them: its memory is laid out so."""
        return pages

    def thp(self) -> str:
        """Return the guest's setting for huge pages."""
        setting = self.wire.read("/sys/kernel/mm/transparent_hugepage/enabled")
        return setting.partition("[")[2].partition("]")[0]

    def actual_pages(self, expected: int) -> int:
        """Ask the device for the balloon's pages, which the driver updates last."""
        for _ in range(100):
            left = self.monitor.command("query-balloon")["actual"] // PAGE_BYTES
            if self.memory_pages - left == expected:
                break
            self.wire.read("/proc/uptime")  # a round trip through the guest, whose turn it then is
        return self.memory_pages - left

    def set_balloon(
        self, n_pages: int, patience_s: float, report: Callable[[float], None] = lambda share: None
    ) -> None:
        """Set the balloon's size and wait until it has it, or no page came for `patience_s`."""
        self.monitor.command("balloon", value=(self.memory_pages - n_pages) * PAGE_BYTES)
        self.listener.wait(n_pages, patience_s, report)
        if self._process.poll() is not None:
            raise self._explained("QEMU ended while the balloon changed its size")

    def _explained(self, what: str) -> GuestError:
        """Return an error with the last lines of QEMU and of the guest's kernel."""
        texts = (path.read_text("utf-8", "replace") for path in (self._errors, self._console))
        return explained(what, *texts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def _disk(folder: Path) -> list[str]:
    """Make a disk with an empty ext4; return QEMU's arguments for it."""
    drive = f"file={make_disk(folder)},format=raw,if=none,id=disk"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"]
