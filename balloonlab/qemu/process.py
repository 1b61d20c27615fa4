"""An unmodified QEMU process: found, started without a running guest, and always ended."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Self

import numpy as np
import numpy.typing as npt

from ..address_map import ram_ranges
from ..host import hugetlb
from ..sizes import MIB, PAGE_BYTES, format_size
from .qtest import QemuError, Qtest

BINARY = "qemu-system-x86_64"
OLDEST = (6, 0)
DRIVER_BYTES = MIB
"""The guest kernel's own memory: queues and message buffers. QEMU's second memory backend."""

FILL = 0xA5
"""What touched memory is filled with."""

DEVICE = "virtio-balloon-device,free-page-reporting=on"

BACKENDS = {
    "anonymous": "memory-backend-ram,share=off",
    "memfd": "memory-backend-memfd,share=on",
    "hugetlb": "memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M",
}
"""QEMU's memory backends for what can be behind RAM."""

_TOUCH_BYTES = 4 * MIB
_CPUCLOCK_SCHED = 2  # of Linux's clock numbers: a process's time as the scheduler counts it

# Runs before QEMU in the same process: QEMU ends with its parent (1, PR_SET_PDEATHSIG), and
# huge pages are set explicitly (41, PR_SET_THP_DISABLE), which survives the exec. QEMU itself
# asks for huge pages for all guest RAM; with the switch set the kernel gives it none. An
# interpreter of its own, because code between fork and exec is not safe beside other threads.
# A parent that died before the first prctl is noticed by its process number.
_LAUNCH = (
    "import ctypes, os, sys; prctl = ctypes.CDLL(None).prctl; "
    f"prctl(1, {int(signal.SIGKILL)}, 0, 0, 0); prctl(41, int(sys.argv[2]), 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def find(binary: str = BINARY) -> tuple[str, tuple[int, int]]:
    """Find QEMU, a name on the search path or a path, and check its version.

    Returns
    -------
    path : str
    version : tuple of int
        Major and minor.

    Raises
    ------
    QemuError
        It is missing, no QEMU, or older than 6.0.
    """
    path = shutil.which(binary)
    if path is None:
        raise QemuError(
            f"{binary} is not installed: install QEMU for x86 guests (Debian and Ubuntu: "
            f"qemu-system-x86, Fedora: qemu-system-x86-core), or measure with host='lab'"
        )
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise QemuError(f"{path} --version failed ({error}): is it QEMU?") from None
    match = re.search(r"QEMU emulator version (\d+)\.(\d+)", said)
    if match is None:
        raise QemuError(f"{path} --version does not name QEMU's version, it says {said[:60]!r}")
    version = int(match[1]), int(match[2])
    if version < OLDEST:
        raise QemuError(
            f"{path} is QEMU {version[0]}.{version[1]}, but {OLDEST[0]}.{OLDEST[1]} or later is "
            "needed: install a newer one, or measure with host='lab'"
        )
    return path, version


def check_memory(memory_pages: int) -> None:
    """Refuse guests that QEMU cannot have (ValueError): its RAM is whole MiB."""
    memory_bytes = memory_pages * PAGE_BYTES
    if memory_bytes % MIB:
        raise ValueError(
            f"memory must be a multiple of 1 MiB for QEMU, got {format_size(memory_bytes)} "
            f"({memory_bytes} bytes)"
        )


class QemuProcess:
    """QEMU's ``microvm`` with a balloon device and no running guest (``-S``), as a context.

    Guest RAM is two memory backends. The balloon's is private anonymous memory, which QEMU discards
    by ``madvise(MADV_DONTNEED)``, or a shared memfd, of which it punches holes. Behind it stands
    1 MiB of shared memory for what a guest's kernel keeps for itself, queues and messages, which
    this process maps too: the timed path copies nothing through qtest.

    Parameters
    ----------
    memory_pages : int
        RAM that can be ballooned, in 4 KiB pages; whole MiB.
    thp : bool
        Whether the kernel may give the process transparent huge pages.
    backing : {'anonymous', 'memfd', 'hugetlb'}
        What is behind RAM.
    binary : str
        See `find`.

    Attributes
    ----------
    pid, version, qtest : int, tuple of int, Qtest
    driver_memory, driver_gpa : uint8 array of shape (DRIVER_BYTES,), int
        The shared backend, and where the guest finds it.

    Raises
    ------
    QemuError
        QEMU is missing, too old, or did not start; with the last it said.
    ValueError
        The memory is no multiple of 1 MiB.
    MemoryError
        There are too few huge pages for ``hugetlb``.
    """

    def __init__(
        self, memory_pages: int, thp: bool, backing: str = "anonymous", binary: str = BINARY
    ) -> None:
        check_memory(memory_pages)
        path, self.version = find(binary)
        self.memory_pages, self._backing = memory_pages, backing
        all_pages = memory_pages + DRIVER_BYTES // PAGE_BYTES
        self.driver_gpa = ram_ranges(all_pages)[-1].end * PAGE_BYTES - DRIVER_BYTES
        self._open = ExitStack()
        try:
            if backing == "hugetlb":
                hugetlb.reserve(memory_pages * PAGE_BYTES)
                self._open.callback(hugetlb.give_back)
            us = str(os.getpid()), str(int(not thp))
            self._start([sys.executable, "-I", "-S", "-c", _LAUNCH, *us, path])
        except BaseException:
            self.close()
            raise

    def _start(self, launch: list[str]) -> None:
        self._said = self._open.enter_context(os.fdopen(os.memfd_create("qemu-said"), "r+b"))
        ours, theirs = socket.socketpair()
        self._open.enter_context(ours)
        with theirs, os.fdopen(os.memfd_create("balloonlab-driver"), "r+b") as shared:
            shared.truncate(DRIVER_BYTES)
            # Unmapped when the last array over it is gone: no kernel can outlive it.
            mapping = mmap.mmap(shared.fileno(), DRIVER_BYTES)
            self.driver_memory: npt.NDArray[np.uint8] = np.frombuffer(mapping, np.uint8)
            backend = BACKENDS[self._backing]
            memory_mib = self.memory_pages * PAGE_BYTES // MIB
            self._process = subprocess.Popen(
                launch + _arguments(memory_mib, backend, shared.fileno(), theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=(shared.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C is ours to handle
            )
            self._open.callback(self._end)
        # The other end is QEMU's alone now: when it dies we read an end, not nothing.
        self.pid = self._process.pid
        self.qtest = Qtest(ours, self.explain)
        self.qtest.readl(self.driver_gpa)

    def touch(self, advance: Callable[[int], object] = lambda n_bytes: None) -> None:
        """Write `FILL` into all RAM that can be ballooned, so that the host backs it.

        `advance` is called with the bytes touched since its last call.
        """
        for start, end in ram_ranges(self.memory_pages):
            for gpa in range(start * PAGE_BYTES, end * PAGE_BYTES, _TOUCH_BYTES):
                n_bytes = min(_TOUCH_BYTES, end * PAGE_BYTES - gpa)
                self.qtest.memset(gpa, n_bytes, FILL)
                advance(n_bytes)

    def cpu_ns(self) -> int:
        """Return the processor time of all QEMU's threads, exact even while it runs.

        The process's clock (``clock_getcpuclockid(3)``).
        """
        try:
            return time.clock_gettime_ns(~self.pid << 3 | _CPUCLOCK_SCHED)
        except OSError:
            raise QemuError(self.explain()) from None

    def explain(self) -> str:
        """Return why QEMU does not answer."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.returncode
        if code is None:
            return f"QEMU (process {self.pid}) does not answer, though it runs: was it stopped?"
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        last = f"; it said: {' '.join(said[-3:])}" if said else ""
        if code == -signal.SIGKILL:
            last += "; where nobody killed it the host ran out of memory: choose a smaller memory="
        return f"QEMU (process {self.pid}) ended early by {how}{last}; nothing is reported"

    def kill(self) -> None:
        """End QEMU at once; whoever waits for its answer reads an end."""
        self._process.kill()

    def close(self) -> None:
        """End QEMU and close its socket; nothing is left behind."""
        self._open.close()
        # A cycle through `explain`: left to the collector, Popen would go in its own time, and a
        # Ctrl-C that falls into its finalizer is lost (11 of 110).
        self.__dict__.pop("qtest", None)

    def _end(self) -> None:
        try:
            self._process.terminate()
            self._process.wait(10)
        except BaseException as error:  # a second Ctrl-C too
            self._process.kill()
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _arguments(memory_mib: int, backend: str, shared: int, channel: int) -> list[str]:
    """QEMU's command line; `shared` and `channel` are descriptors that it inherits."""
    driver_mib = DRIVER_BYTES // MIB
    return [
        *("-machine", "microvm", "-accel", "tcg,tb-size=1", "-S"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-m", f"{memory_mib + driver_mib}M"),
        *("-object", f"{backend},id=ram,size={memory_mib}M"),
        "-object",
        f"memory-backend-file,id=driver,share=on,mem-path=/dev/fd/{shared},size={driver_mib}M",
        *("-numa", "node,memdev=ram", "-numa", "node,memdev=driver"),
        *("-global", "virtio-mmio.force-legacy=false", "-device", DEVICE),
        *("-chardev", f"socket,id=qtest,fd={channel}", "-qtest", "chardev:qtest"),
        *("-qtest-log", "none"),
    ]
