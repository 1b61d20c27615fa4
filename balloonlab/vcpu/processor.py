"""A virtual processor in a KVM virtual machine that is made of this very process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..kernels import vcpu as kernels
from . import kvm
from .calls import Call
from .clock import Clock
from .machine import FIRST_KICK_PORT, Machine, Processor
from .memory import MAPS, compiled_code
from .own import OwnMemory

N_PORTS = 64  # of each kind


class Vcpu:
    """Runs compiled kernels in user mode inside KVM, in this process's own memory.

    Addresses are the same inside and outside, so a kernel's code and its arrays are valid in both.
    There are no system calls inside, no Python, no allocation; `kick_port` and `wait_port` are the
    way out. One call at a time. A `KvmError` where there is no KVM.

    With `beside` it is one more processor of that one's virtual machine, and may run at the same
    time in another thread: both see the same page tables, and what KVM asks of all processors of a
    machine, as to flush their TLBs, reaches both. Ports to kick are the machine's.
    """

    def __init__(self, beside: Vcpu | None = None) -> None:
        self._beside = beside
        self._open = ExitStack()
        self._kicks: list[int] = []
        self._waits = np.full(N_PORTS, -1, np.int64)
        self._n_waits = 0
        self._exits = np.zeros(kvm.N_EXITS, np.int64)
        self._cell = np.zeros(2, np.int64)
        self._own = OwnMemory()
        self._processor: Processor | None = None
        self._ready()
        self.clock = Clock()
        try:
            self.calibrate()
        except BaseException:
            self.close()
            raise

    def kick_port(self, eventfd: int) -> int:
        """Return a port such that a write to it signals the eventfd; the function goes on."""
        if self._beside:
            return self._beside.kick_port(eventfd)
        if len(self._kicks) == N_PORTS:
            raise ValueError(f"a vCPU has {N_PORTS} ports to kick, all are taken")
        self._kicks.append(self._own_copy(eventfd))
        if self._processor:
            self._processor.machine.signal(len(self._kicks) - 1, eventfd)
        return FIRST_KICK_PORT + len(self._kicks) - 1

    def wait_port(self, eventfd: int) -> int:
        """Return a port such that a write to it waits until the eventfd is signalled.

        The processor leaves the kernel's KVM for that; a real host halts inside it.
        """
        if self._n_waits == N_PORTS:
            raise ValueError(f"a vCPU has {N_PORTS} ports to wait, all are taken")
        self._waits[self._n_waits] = self._own_copy(eventfd)
        self._n_waits += 1
        return kernels.FIRST_WAIT_PORT + self._n_waits - 1

    def _own_copy(self, eventfd: int) -> int:
        """Return a descriptor that stays open until the vCPU is closed."""
        copy = os.dup(eventfd)
        self._open.callback(os.close, copy)
        return copy

    def exits(self) -> dict[str, int]:
        """Count how often calls left ``KVM_RUN``, by reason, their returns included."""
        return {kvm.EXITS.get(i, f"reason {i}"): int(n) for i, n in enumerate(self._exits) if n}

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a kernel inside and return its result, an integer or None.

        A `KvmError` names function, address and reason where it strayed: the process and its
        memory go on, and the next call has a new virtual machine.
        """
        return self.call_within(nullcontext, function, *arguments)

    def call_within(
        self,
        beside: Callable[[], AbstractContextManager[None]],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Do as `call`; `beside` is entered while the processor runs, not while it is prepared."""
        call = Call.of(function, arguments, self._own.counter.ctypes.data)
        processor = self._ready()
        processor.prepare(self._own, call)
        waits = self._waits[: self._n_waits]
        with beside():
            outcome = kernels.run(processor.fd, processor.state, waits, self._exits, self._cell)
        registers = processor.registers()
        if outcome != kernels.RETURNED:
            error = processor.error(call.name, outcome, registers)
            self._processor = None
            processor.close()
            raise error
        if status := int(registers["rax"]) & 0xFFFF_FFFF:
            raise kvm.KvmError(f"{call.name} raised an exception inside the vCPU (status {status})")
        return call.read(self._own.result)

    def _ready(self) -> Processor:
        """Return the processor; a new one where there is none, or the last one strayed."""
        if self._processor is None:
            machine = self._beside._ready().machine if self._beside else Machine(self._kicks)
            self._processor = Processor(machine)
        return self._processor

    def warm(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Touch compiled code and a kernel's arrays from inside: `call` meets no fault then."""
        Call.of(function, arguments, self._own.counter.ctypes.data)  # compiles it
        ranges = [(start, end, 0) for start, end in compiled_code(MAPS.read_text())]
        for array in _arrays(arguments):
            start = array.ctypes.data
            ranges.append((start, start + array.nbytes, 1))
        self.call(kernels.map_pages, np.array(ranges, np.int64))

    def calibrate(self) -> None:
        """Calibrate `clock` anew; the longer ago the first time was, the better its rate."""
        self.clock.calibrate(self)

    def close(self) -> None:
        """End it, and its virtual machine with the last; the process's memory is as it was."""
        if self._processor:
            self._processor.close()
            self._processor = None
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _arrays(arguments: tuple[Any, ...]) -> Iterator[npt.NDArray[Any]]:
    for value in arguments:
        if isinstance(value, tuple):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray):
            yield value
