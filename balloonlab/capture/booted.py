"""A booted Linux guest in QEMU: takes commands, and every page of its balloon is recorded."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ..sizes import MIB, PAGE_BYTES
from . import initramfs, linux_image
from .errors import CaptureError, run
from .linux_image import Kernel
from .planning import Planned
from .qmp import Monitor
from .states import STATES
from .trace_events import EVENTS, Listener

QEMU = "qemu-system-x86_64"
ACCELERATORS = ("kvm", "tcg")

COMMAND_LINE = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off"
"""A panic ends QEMU, which is started with ``-no-reboot``; nothing is placed at random."""

PATIENCE_S = 120.0
"""Seconds of silence after which a guest counts as hung; it reports 50 times per command."""

LAST_WORDS = 12
"""Lines of the guest's console in an error message."""

DISK_BYTES = 64 * MIB
"""Room for a file system; the guest's only file is a hole."""


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

    `folder` is for its files. In all methods a `CaptureError` means that QEMU or the guest ended,
    hung, or answered with an error; its message has the end of the guest's console.
    """

    def __init__(
        self, which: Kernel, wanted: Planned, folder: Path, qemu: str, patience_s: float,
        accelerator: str,
    ) -> None:  # fmt: skip
        self.memory_pages, self.accelerator = wanted.memory_bytes // PAGE_BYTES, accelerator
        self._patience_s = patience_s
        self._console, self._errors = folder / "console", folder / "errors"
        self._console.touch()
        disk = STATES[wanted.state].disk
        of_disk = (*linux_image.ONLY_IF_THERE, *linux_image.DISK) if disk else ()
        modules = linux_image.read_modules(which.modules, linux_image.BALLOON + of_disk)
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
        except BaseException:
            self._open.close()
            raise

    def _start(self, command: list[str]) -> None:
        """Start QEMU, connected to us by sockets and a pipe, and wait until the guest is up."""
        self._wire, wire = socket.socketpair()
        own, monitor = socket.socketpair()
        source, events = os.pipe()
        with ExitStack() as theirs:
            for end in (wire, monitor):
                theirs.callback(end.close)
            theirs.callback(os.close, events)
            for end in (self._wire, own):
                self._open.callback(end.close)
                end.settimeout(self._patience_s)
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
                raise CaptureError(f"{command[0]} could not be started: {error}") from None
        self._open.callback(self._process.wait)
        self._open.callback(self._process.kill)
        try:
            self.monitor = Monitor(own)
        except CaptureError as error:
            raise self._explained(str(error)) from None
        self._open.callback(self.monitor.close)
        self._lines = self._open.enter_context(self._wire.makefile("rb"))
        self._expect("ready")

    def run(self, command: str, report: Callable[[float], None] = lambda share: None) -> str:
        """Give init a command, report the share that is done, and return its answer at the end."""
        self._from_wire(lambda: self._wire.sendall(command.encode() + b"\n"))
        return self._expect("ok", report)

    def read(self, path: str) -> str:
        """Read a file of the guest."""
        n_bytes = int(self.run(f"cat {path}").split()[1])
        return self._from_wire(lambda: self._lines.read(n_bytes)).decode()

    def available_bytes(self) -> int:
        """Return the guest's ``MemAvailable`` in bytes."""
        found = re.search(r"MemAvailable:\s+(\d+) kB", self.read("/proc/meminfo"))
        if not found:
            raise CaptureError("the guest's /proc/meminfo has no MemAvailable: Linux 3.14 or later")
        return int(found[1]) << 10

    def set_balloon(
        self, n_pages: int, patience_s: float, report: Callable[[float], None] = lambda share: None
    ) -> None:
        """Set the balloon's size and wait until it has it, or no page came for `patience_s`."""
        self.monitor.command("balloon", value=(self.memory_pages - n_pages) * PAGE_BYTES)
        self.listener.wait(n_pages, patience_s, report)
        if self._process.poll() is not None:
            raise self._explained("QEMU ended while the balloon changed its size")

    def _expect(self, word: str, report: Callable[[float], None] = lambda share: None) -> str:
        """Read the guest's answers up to one that begins with `word`."""
        while True:
            line = self._from_wire(self._lines.readline).decode("utf-8", "replace").strip()
            if line.startswith("at "):
                _, done, total = line.split()
                report(int(done) / int(total))
            elif line.split()[:1] == [word]:
                return line
            else:
                raise self._explained(f"the guest answered {line!r}, not {word}")

    def _from_wire(self, act: Callable[[], bytes | None]) -> bytes:
        try:
            got = act()
        except TimeoutError:
            raise self._explained(f"the guest was silent for {self._patience_s:g} s") from None
        except OSError:
            got = b""
        if got == b"":
            raise self._explained("QEMU ended, most likely since its guest did")
        return got or b""

    def _explained(self, what: str) -> CaptureError:
        """Return an error with the last lines of QEMU and of the guest's kernel."""
        texts = [path.read_text("utf-8", "replace") for path in (self._errors, self._console)]
        ends = [[line.strip() for line in text.splitlines() if line.strip()] for text in texts]
        panics = [line for line in ends[1][:-LAST_WORDS] if "Kernel panic" in line]
        lines = [*ends[0][-LAST_WORDS:], *panics, *ends[1][-LAST_WORDS:]]
        return CaptureError("\n".join([what, *lines]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def _disk(folder: Path) -> list[str]:
    """Make a disk with an empty ext4; return QEMU's arguments for it."""
    sbin = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    mke2fs = shutil.which("mke2fs", path=sbin)
    if mke2fs is None:
        raise CaptureError("a disk for the guest needs mke2fs (Debian: apt-get install e2fsprogs)")
    image = folder / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=0"]
    run(mke2fs, *options, str(image), advice="the guest's disk needs an ext4 of e2fsprogs")
    drive = f"file={image},format=raw,if=none,id=disk"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"]
