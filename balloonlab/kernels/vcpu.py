"""What runs around and inside a virtual processor: its run loop, its ports, its clock's samples.

Port I/O is the way out of a virtual machine. A port that KVM was given an eventfd for signals
that and goes on; any other leaves ``KVM_RUN``, and `run` sees to it.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compile import kernel
from .syscalls import now_ns, wait_event
from .tsc import read_tsc

PAGE_BYTES = 4096
KVM_RUN = 0xAE80
REASON, IO = 2, 8  # 32-bit words of ``struct kvm_run``
EXIT_IO, EXIT_INTR = 2, 10

RETURN_PORT = 0x11
"""Where a called function's return leads: out of the run loop."""

FIRST_WAIT_PORT = 0x200
"""A wait: the run loop sleeps on an eventfd, then goes on in the virtual machine."""

RETURNED, FAILED = -1, -2
"""What comes of a run besides the exit that nobody expected: the function returned; no exit."""

_ioctl = types.ExternalFunction("ioctl", types.int32(types.int32, types.uintp, types.intp))

llvmlite.binding.initialize_native_asmparser()


@intrinsic
def write_port(typingctx: Any, port: Any) -> Any:
    """Write a byte to an I/O port (the instruction OUT of x86); only in a virtual machine."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out = ir.FunctionType(ir.VoidType(), [ir.IntType(16), ir.IntType(8)])
        port = builder.trunc(args[0], ir.IntType(16))
        value = ir.Constant(ir.IntType(8), 1)
        constraint = "{dx},{al},~{memory},~{dirflag},~{fpsr},~{flags}"
        builder.asm(out, "outb %al, %dx", constraint, [port, value], side_effect=True)
        return context.get_dummy_value()

    return types.none(types.int64), generate


@kernel
def enter(fd):
    """Run the virtual processor until it exits; negative where that failed."""
    return _ioctl(fd, KVM_RUN, 0)


@kernel
def run(fd, state, waits, exits, cell):
    """Run the virtual processor until the function called in it returns.

    `fd` is the processor's, `state` (uint32) its ``struct kvm_run``; `waits` (int64) are the
    eventfds behind the ports from `FIRST_WAIT_PORT` on. `exits` (int64) counts by reason. Return
    RETURNED, FAILED, or the reason of an exit that nobody expected. `cell` is int64 scratch,
    shape (2,).
    """
    while True:
        outcome = enter(fd)
        reason = np.int64(state[REASON])
        exits[min(reason, exits.size - 1)] += 1
        if outcome < 0 and reason != EXIT_INTR:
            return FAILED
        if reason == EXIT_INTR:  # a signal: Python's handler runs elsewhere
            continue
        if reason != EXIT_IO:
            return reason
        port = np.int64(state[IO]) >> 16
        if port == RETURN_PORT:
            return RETURNED
        wait = port - FIRST_WAIT_PORT
        if not 0 <= wait < waits.size:
            return reason
        wait_event(waits[wait], cell)


@intrinsic
def _touch_byte(typingctx: Any, address: Any, writing: Any) -> Any:
    """Read the byte at an address and, if asked to, write it back."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        value = builder.load_atomic(pointer, "acquire", 1)
        with builder.if_then(builder.icmp_unsigned("!=", args[1], ir.Constant(args[1].type, 0))):
            builder.store_atomic(value, pointer, "release", 1)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), generate


@kernel
def map_pages(ranges):
    """Touch every page of ranges, so that later accesses from here meet no fault.

    `ranges` are int64 rows of start, end, and whether they are to be written, too.
    """
    for i in range(ranges.shape[0]):
        address, end = ranges[i, 0], ranges[i, 1]
        while address < end:
            _touch_byte(address, ranges[i, 2])
            address = (address // PAGE_BYTES + 1) * PAGE_BYTES


@kernel
def write_often(port, n, clock, times):
    """Write to a port `n` times; `times` (int64) receives the ns of each write."""
    for i in range(n):
        begin_ns = now_ns(clock)
        write_port(port)
        times[i] = now_ns(clock) - begin_ns


@kernel
def sample_tsc(ticks):
    """Read the counter into `ticks` (int64, shape (1,)); called inside and outside."""
    ticks[0] = read_tsc()


@kernel
def sample_both(n, sample, cell):
    """Read the counter between two readings of CLOCK_MONOTONIC, `n` times; keep the closest pair.

    `sample` (int64, shape (3,)) receives ticks, ns, and the ns between the two readings.
    """
    sample[2] = np.iinfo(np.int64).max
    for _ in range(n):
        before = now_ns(cell)
        ticks = read_tsc()
        after = now_ns(cell)
        if after - before < sample[2]:
            sample[0] = ticks
            sample[1] = (before + after) // 2
            sample[2] = after - before
