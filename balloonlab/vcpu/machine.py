"""The virtual machine itself, its ports to kick; its processors, which run in user mode."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import ExitStack, suppress
from fcntl import ioctl
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernels import vcpu as kernels
from . import kvm
from .calls import Call
from .memory import ProcessMemory
from .own import TSS_BYTES, OwnMemory

CR0, CR4, EFER = 0x8005_0033, 0x4_0620, 0x500
"""Paging in 64-bit mode; SSE, and what its registers are saved with."""

XCR0 = 0xE7  # up to AVX-512
FIRST_KICK_PORT = 0x100
TSS_GPA = 0x1000_0000  # where KVM may keep what Intel's processors need of it

_TSC_CONTROL = 0  # group and number of the attribute with the counter's offset


class Machine:
    """The virtual machine itself; `kicks` are eventfds by port.

    It ends with the last of its processors.
    """

    def __init__(self, kicks: list[int]) -> None:
        with ExitStack() as stack:
            self.device = kvm.open_device()
            stack.callback(os.close, self.device)
            self.vm = ioctl(self.device, kvm.CREATE_VM, 0)
            stack.callback(os.close, self.vm)
            ioctl(self.vm, kvm.SET_TSS_ADDR, TSS_GPA)
            self.memory = ProcessMemory(self.vm)
            for number, eventfd in enumerate(kicks):
                self.signal(number, eventfd)
            self._n_made = self._n_open = 0
            self._open = stack.pop_all()

    def signal(self, number: int, eventfd: int) -> None:
        """Have KVM signal an eventfd at each write to a port to kick."""
        event = np.zeros((), kvm.EVENT)
        event["port"], event["n_bytes"] = FIRST_KICK_PORT + number, 1
        event["fd"], event["flags"] = eventfd, kvm.IOEVENTFD_PIO
        kvm.request(self.vm, kvm.IOEVENTFD, event)

    def enter(self) -> int:
        """Return the number of a processor that is about to be made."""
        self._n_made, self._n_open = self._n_made + 1, self._n_open + 1
        return self._n_made - 1

    def leave(self) -> None:
        """Count a processor less, and end with the last; eventfds stay open."""
        self._n_open -= 1
        if self._n_open == 0:
            self._open.close()


class Processor:
    """One processor of a `machine`; `state` is its ``struct kvm_run``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        with ExitStack() as stack:
            number = machine.enter()
            stack.callback(machine.leave)
            self.fd = ioctl(machine.vm, kvm.CREATE_VCPU, number)
            stack.callback(os.close, self.fd)
            size = ioctl(machine.device, kvm.GET_VCPU_MMAP_SIZE)
            mapping = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED)
            self._bytes = np.frombuffer(mapping, np.uint8)
            self.state = self._bytes.view(np.uint32)
            self._set_features(machine.device)
            self._open = stack.pop_all()

    def _set_features(self, device: int) -> None:
        """Give the processor all that the host's has."""
        features = np.zeros((), kvm.CPUID)
        features["n"] = features["entries"].size
        kvm.request(device, kvm.GET_SUPPORTED_CPUID, features)
        kvm.request(self.fd, kvm.SET_CPUID2, features)
        entries = features["entries"][: int(features["n"])]
        state = entries[(entries["function"] == 0xD) & (entries["index"] == 0)]
        xcrs = np.zeros((), kvm.XCRS)
        xcrs["n"] = 1
        xcrs["value"] = int(state["eax"][0]) & XCR0
        kvm.request(self.fd, kvm.SET_XCRS, xcrs)
        # One counter inside and outside where the kernel can; the calibration sees what came of it.
        offset = np.zeros(1, np.uint64)
        attribute = np.array((0, _TSC_CONTROL, 0, offset.ctypes.data), kvm.ATTRIBUTE)
        with suppress(OSError):
            kvm.request(self.fd, kvm.SET_DEVICE_ATTR, attribute)

    def prepare(self, own: OwnMemory, call: Call) -> None:
        """Get ready to run a call by the thread that asks for it."""
        self.machine.memory.refresh()
        self._complete()
        special = np.zeros((), kvm.SREGS)
        kvm.request(self.fd, kvm.GET_SREGS, special)
        special["cs"] = _segment(0x1B, 0xB, l=1)
        for name in ("ds", "es", "fs", "gs", "ss"):
            special[name] = _segment(0x23, 0x3, db=1)
        special["fs"]["base"] = _thread_pointer()
        special["tr"] = _segment(0x30, 0xB, s=0, dpl=0, g=0, limit=TSS_BYTES - 1, base=own.tss)
        special["cr0"], special["cr3"], special["cr4"] = CR0, self.machine.memory.root, CR4
        special["efer"] = EFER
        kvm.request(self.fd, kvm.SET_SREGS, special)
        kvm.request(self.fd, kvm.SET_REGS, own.place(call))

    def _complete(self) -> None:
        """Let KVM finish the exit before: the port write that was the last call's return."""
        self._bytes[1] = 1  # immediate_exit
        kernels.enter(self.fd)
        self._bytes[1] = 0

    def registers(self) -> Any:
        """Return the processor's registers."""
        registers = np.zeros((), kvm.REGS)
        kvm.request(self.fd, kvm.GET_REGS, registers)
        return registers

    def error(self, name: str, outcome: int, registers: Any) -> kvm.KvmError:
        """Say where and why a call was left."""
        special = np.zeros((), kvm.SREGS)
        kvm.request(self.fd, kvm.GET_SREGS, special)
        reason = int(self.state[kernels.REASON])
        said = kvm.EXITS.get(reason, f"reason {reason}")
        if reason == 8:
            said += f": no memory of this process at {int(special['cr2']):#x}, or a bad instruction"
        if reason == 2:
            said += f" at port {int(self.state[kernels.IO]) >> 16:#x}"
        failed = "an exit that nobody expected"
        if outcome == kernels.FAILED:
            failed = "KVM_RUN failed, as where memory was unmapped meanwhile"
        return kvm.KvmError(
            f"{name} strayed inside the vCPU: {failed} ({said}) at rip {int(registers['rip']):#x}"
        )

    def close(self) -> None:
        """End it, and the virtual machine where it was the last."""
        del self._bytes, self.state
        self._open.close()


def _segment(selector: int, kind: int, **fields: int) -> npt.NDArray[Any]:
    segment = np.zeros((), kvm.SEGMENT)
    segment["selector"], segment["type"] = selector, kind
    usual = {"limit": 0xFFFF_FFFF, "present": 1, "dpl": 3, "s": 1, "g": 1}
    for name, value in (usual | fields).items():
        segment[name] = value
    return segment


def _thread_pointer() -> int:
    """Return the base of the calling thread's FS segment."""
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_void_p
    return int(libc.pthread_self())
