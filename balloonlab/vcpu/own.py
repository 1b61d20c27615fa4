"""What calls need besides the process's memory: a stack, a way back, a TSS."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernels import vcpu as kernels
from . import kvm
from .calls import RESULT_WORDS, Call
from .memory import PAGE

STACK_PAGES = 256
TSS_BYTES, IO_BITMAP_AT = 104 + 8192, 102

_STUB = bytes([0xE6, kernels.RETURN_PORT, 0x0F, 0x0B])  # out port, al; ud2
_IN_REGISTERS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_FLAGS = 0x3002  # I/O at privilege level 3
_ENDLESS = 1 << 40


class OwnMemory:
    """What calls need besides the process's memory: a stack, the stub they return to, a TSS."""

    def __init__(self) -> None:
        n_tss = -(-TSS_BYTES // PAGE)
        self._mapping = mmap.mmap(
            -1, (STACK_PAGES + n_tss + 1) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        whole = np.frombuffer(self._mapping, np.uint8)
        # Below the stack a page that nobody may touch.
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(PAGE), 0)
        stack, tss, rest = np.split(whole, np.cumsum([STACK_PAGES, n_tss]) * PAGE)
        self.stack = stack.view(np.int64)
        tss[IO_BITMAP_AT : IO_BITMAP_AT + 2].view(np.uint16)[0] = 104  # all zeros: every port
        self.tss = tss.ctypes.data
        rest[: len(_STUB)] = np.frombuffer(_STUB, np.uint8)
        self.stub = rest.ctypes.data
        words = rest[64:].view(np.int64)
        self.counter, self.result, self.exception = (
            words[:8],
            words[8:][:RESULT_WORDS],
            words[24:25],
        )
        self.counter[0] = _ENDLESS

    def place(self, call: Call) -> npt.NDArray[Any]:
        """Put a call's arguments where its code expects them; return the registers."""
        registers = np.zeros((), kvm.REGS)
        words = [self.result.ctypes.data, self.exception.ctypes.data, *call.words]
        for name, word in zip(_IN_REGISTERS, words, strict=False):
            registers[name] = word
        behind = words[len(_IN_REGISTERS) :]
        top = self.stack.size - len(behind) - 1 & ~1  # 16 bytes: aligned before the call
        frame = self.stack.view(np.uint64)[top - 1 :]
        frame[0] = self.stub
        frame[1 : len(behind) + 1] = behind
        registers["rsp"] = frame.ctypes.data
        registers["rip"] = call.address
        registers["rflags"] = _FLAGS
        return registers
