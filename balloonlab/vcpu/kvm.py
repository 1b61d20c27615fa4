"""The kernel's KVM interface as far as a `Vcpu` needs it: requests, structures, ``/dev/kvm``."""

from __future__ import annotations

import os
import platform
from fcntl import ioctl
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import config

DEVICE = "/dev/kvm"
API_VERSION = 12

GET_API_VERSION, CREATE_VM, CHECK_EXTENSION, GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE03, 0xAE04
GET_SUPPORTED_CPUID, SET_CPUID2 = 0xC008AE05, 0x4008AE90
CREATE_VCPU, SET_USER_MEMORY_REGION, IOEVENTFD = 0xAE41, 0x4020AE46, 0x4040AE79
RUN, GET_REGS, SET_REGS, GET_SREGS, SET_SREGS = (
    0xAE80,
    0x8090AE81,
    0x4090AE82,
    0x8138AE83,
    0x4138AE84,
)
SET_XCRS, SET_DEVICE_ATTR, SET_TSS_ADDR = 0x4188AEA7, 0x4018AEE1, 0xAE47

NEEDED = {
    3: "user memory", 7: "CPUID", 36: "ioeventfd", 56: "XCRs", 81: "read-only memory",
    136: "immediate exit",
}  # fmt: skip
"""Extensions by number, all of Linux 4.13."""

MEMORY_READONLY = 2
IOEVENTFD_PIO = 2

EXITS = {
    0: "unknown", 1: "exception", 2: "port I/O", 3: "hypercall", 4: "debug", 5: "halt", 6: "MMIO",
    7: "interrupt window", 8: "shutdown", 9: "entry failed", 10: "signal", 17: "internal error",
    24: "system event", 39: "memory fault",
}  # fmt: skip
"""Why ``KVM_RUN`` came back, by ``exit_reason``."""

N_EXITS = 64

REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *(f"r{n}" for n in range(8, 16)), "rip", "rflags",
)  # fmt: skip
REGS = np.dtype([(name, "<u8") for name in REGISTERS])

SEGMENT = np.dtype(
    [("base", "<u8"), ("limit", "<u4"), ("selector", "<u2")]
    + [(name, "u1") for name in ("type", "present", "dpl", "db", "s", "l", "g", "avl")]
    + [("unusable", "u1"), ("padding", "u1")]
)
TABLE = np.dtype([("base", "<u8"), ("limit", "<u2"), ("padding", "<u2", 3)])
SREGS = np.dtype(
    [(name, SEGMENT) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")]
    + [("gdt", TABLE), ("idt", TABLE)]
    + [(name, "<u8") for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")]
    + [("interrupts", "<u8", 4)]
)
XCRS = np.dtype(
    [("n", "<u4"), ("flags", "<u4"), ("xcr0", "<u8"), ("value", "<u8"), ("rest", "<u8", 46)]
)
REGION = np.dtype(
    [("slot", "<u4"), ("flags", "<u4"), ("gpa", "<u8"), ("n_bytes", "<u8"), ("address", "<u8")]
)
EVENT = np.dtype(
    [
        *[("match", "<u8"), ("port", "<u8"), ("n_bytes", "<u4"), ("fd", "<i4"), ("flags", "<u4")],
        ("padding", "u1", 36),
    ]
)
ATTRIBUTE = np.dtype([("flags", "<u4"), ("group", "<u4"), ("number", "<u8"), ("address", "<u8")])
CPUID_ENTRY = np.dtype(
    [(name, "<u4") for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")]
    + [("padding", "<u4", 3)]
)
CPUID = np.dtype([("n", "<u4"), ("padding", "<u4"), ("entries", CPUID_ENTRY, 256)])


class KvmError(RuntimeError):
    """KVM is missing, not permitted or too old, or what ran in the virtual machine went wrong."""


def request(fd: int, number: int, structure: npt.NDArray[Any]) -> None:
    """Make a request with a structure, which the kernel may fill in (OSError)."""
    ioctl(fd, number, structure.data)


def open_device() -> int:
    """Open ``/dev/kvm``; a `KvmError` says what is missing and what to do about it."""
    if config.DISABLE_JIT:
        raise KvmError("a virtual machine runs compiled code only: unset NUMBA_DISABLE_JIT")
    if platform.machine() != "x86_64":
        raise KvmError(f"a virtual machine is made on x86-64 only, this is {platform.machine()}")
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        raise KvmError(
            f"{DEVICE} is not permitted: become a member of its group (sudo usermod -aG kvm $USER) "
            "and log in again"
        ) from None
    except OSError as error:
        raise KvmError(
            f"{DEVICE} cannot be opened ({error.strerror}): load the module kvm_intel or kvm_amd; "
            "where this is itself a virtual machine, its host must allow nested virtualization"
        ) from None
    try:
        version = ioctl(fd, GET_API_VERSION)
        lacking = [name for n, name in NEEDED.items() if ioctl(fd, CHECK_EXTENSION, n) <= 0]
    except OSError as error:
        os.close(fd)
        raise KvmError(f"{DEVICE} is no KVM device ({error.strerror})") from None
    if version != API_VERSION or lacking:
        os.close(fd)
        raise KvmError(
            f"{DEVICE} is too old (API {version}; it lacks {', '.join(lacking) or 'nothing'}): "
            "Linux 4.13 or later has what is needed"
        )
    return fd


def describe() -> dict[str, str]:
    """Return which of the kernel's modules makes virtual machines; errors as `open_device`."""
    os.close(open_device())
    found = sorted(path.name for path in Path("/sys/module").glob("kvm_*"))
    return {"kvm": " ".join(found) or "built in"}
