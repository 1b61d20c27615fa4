"""The few system calls of the timed path, callable from compiled code.

An ``ExternalFunction`` is resolved by name in the running process, so kernels that use it can
be cached (a ctypes pointer would be baked in and refused). It is only resolved when a kernel
that needs it is compiled: without eventfd or madvise everything else still works.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from contextlib import suppress
from typing import Any

import numpy as np
from numba import config, types
from numba.extending import overload

from .compile import kernel
from .tsc import Tsc, tsc_ns

CLOCK_MONOTONIC = 1
POLLIN = 1
PAUSE_NS = 50_000
"""Of a thread that waits for another one to finish its work; no cost of anything."""

PUNCH_HOLE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE, which it must come with."""

READ_WRITE = 0x1 | 0x2  # PROT_READ and PROT_WRITE

PROCESS_MADVISE = 440
"""The call's number, the same on all architectures; older C libraries have no name for it."""

if config.DISABLE_JIT:

    def advise(address: int, length_bytes: int, advice: int) -> int:
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        return int(madvise(int(address), int(length_bytes), int(advice)))

    def punch_hole(file: int, offset: int, length_bytes: int) -> int:
        fallocate = ctypes.CDLL(None).fallocate
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        return int(fallocate(int(file), PUNCH_HOLE, int(offset), int(length_bytes)))

    def map_anew(address: int, length_bytes: int, flags: int) -> int:
        map_memory = ctypes.CDLL(None).mmap
        map_memory.restype = ctypes.c_void_p
        map_memory.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        size = int(length_bytes)
        return 0 if map_memory(int(address), size, READ_WRITE, int(flags), -1, 0) == address else -1

    def advise_vectors(pidfd: int, iovecs: np.ndarray, n: int, advice: int) -> int:
        syscall = ctypes.CDLL(None).syscall
        syscall.restype = ctypes.c_long
        words = (PROCESS_MADVISE, int(pidfd), iovecs.ctypes.data, int(n), int(advice), 0)
        return int(syscall(*map(ctypes.c_long, words)))

    def signal_event(fd: int, cell: np.ndarray) -> None:
        with suppress(OSError):  # a pipe may be full, or nobody's
            os.write(int(fd), (1).to_bytes(8, "little"))

    def wait_event(fd: int, cell: np.ndarray) -> None:
        os.read(int(fd), 8)

    def wait_readable(epoll_fd: int, patience_ms: int, cell: np.ndarray) -> bool:
        event = ctypes.c_void_p(cell.ctypes.data)
        return ctypes.CDLL(None).epoll_wait(int(epoll_fd), event, 1, int(patience_ms)) != 0

    def wait_input(fd: int, patience_ms: int, cell: np.ndarray) -> bool:
        return bool(select.select([int(fd)], [], [], patience_ms / 1e3)[0])

    def pause(cell: np.ndarray) -> None:
        time.sleep(PAUSE_NS / 1e9)

    def send_bytes(fd: int, data: np.ndarray) -> int:
        try:
            return os.write(int(fd), data.tobytes())
        except OSError:
            return -1

    def receive_bytes(fd: int, room: np.ndarray) -> int:
        try:
            data = os.read(int(fd), room.size)
        except OSError:
            return -1
        room[: len(data)] = np.frombuffer(data, np.uint8)
        return len(data)

    def _monotonic_ns(cell: np.ndarray) -> int:
        return time.monotonic_ns()

else:
    _madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.uintp, types.int32))
    _fallocate = types.ExternalFunction(
        "fallocate", types.int32(types.int32, types.int32, types.int64, types.int64)
    )
    _mmap = types.ExternalFunction(
        "mmap",
        types.intp(types.intp, types.uintp, types.int32, types.int32, types.int32, types.int64),
    )
    _syscall = types.ExternalFunction("syscall", types.intp(*[types.intp] * 6))
    _write = types.ExternalFunction("write", types.intp(types.int32, types.intp, types.uintp))
    _read = types.ExternalFunction("read", types.intp(types.int32, types.intp, types.uintp))
    _epoll = types.ExternalFunction(
        "epoll_wait", types.int32(types.int32, types.intp, types.int32, types.int32)
    )
    _poll = types.ExternalFunction("poll", types.int32(types.intp, types.uintp, types.int32))
    _nanosleep = types.ExternalFunction("nanosleep", types.int32(types.intp, types.intp))
    _clock = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))

    @kernel
    def advise(address, length_bytes, advice):
        """``madvise(2)``; 0, or -1 on error."""
        return _madvise(address, length_bytes, advice)

    @kernel
    def punch_hole(file, offset, length_bytes):
        """``fallocate(2)`` that makes a hole in a file of the same size; 0, or -1 on error."""
        return _fallocate(file, PUNCH_HOLE, offset, length_bytes)

    @kernel
    def map_anew(address, length_bytes, flags):
        """``mmap(2)`` of anonymous memory in the place of what is there; 0, or -1 on error."""
        mapped = _mmap(address, length_bytes, READ_WRITE, flags, -1, 0)
        return 0 if mapped == address else -1

    @kernel
    def advise_vectors(pidfd, iovecs, n, advice):
        """``process_madvise(2)`` with the first `n` iovecs; the bytes that were done, or -1."""
        return _syscall(PROCESS_MADVISE, pidfd, iovecs.ctypes.data, n, advice, 0)

    @kernel
    def signal_event(fd, cell):
        """Add 1 to the eventfd `fd`; `cell` is int64 scratch, shape (2,)."""
        cell[0] = 1
        _write(fd, cell.ctypes.data, 8)

    @kernel
    def wait_event(fd, cell):
        """Sleep until the eventfd `fd` is non-zero, then take its count.

        May return early when a signal arrives: callers look again and wait again.
        """
        _read(fd, cell.ctypes.data, 8)

    @kernel
    def wait_readable(epoll_fd, patience_ms, cell):
        """Sleep until one of an epoll's descriptors has an edge; a signal ends it, too.

        False where `patience_ms` (-1: endless) went by. `cell`, 16 bytes, takes the one event, of
        12.
        """
        return _epoll(epoll_fd, cell.ctypes.data, 1, patience_ms) != 0

    @kernel
    def wait_input(fd, patience_ms, cell):
        """Sleep until a descriptor can be read; False where it could not for so long.

        `cell`, 16 bytes, holds the one ``struct pollfd``, of 8.
        """
        cell[0] = fd | POLLIN << 32
        return _poll(cell.ctypes.data, 1, patience_ms) != 0

    @kernel
    def pause(cell):
        """Let others run for `PAUSE_NS`."""
        cell[0] = 0
        cell[1] = PAUSE_NS
        _nanosleep(cell.ctypes.data, 0)

    @kernel
    def send_bytes(fd, data):
        """``write(2)`` of a uint8 array; how many bytes were taken, -1 on error."""
        return _write(fd, data.ctypes.data, data.size)

    @kernel
    def receive_bytes(fd, room):
        """``read(2)`` into a uint8 array; how many bytes came, 0 at the end, -1 on error."""
        return _read(fd, room.ctypes.data, room.size)

    @kernel
    def _monotonic_ns(cell):
        _clock(CLOCK_MONOTONIC, cell.ctypes.data)
        return cell[0] * 1_000_000_000 + cell[1]


def now_ns(clock: Any) -> int:
    """CLOCK_MONOTONIC in ns; about 24 ns per call.

    By the type of `clock`: int64 scratch, shape (2,), for the system call's own; a `Tsc` where
    there are no system calls.
    """
    return _monotonic_ns(clock)


@overload(now_ns)
def _typed(clock):
    if getattr(clock, "instance_class", None) is Tsc:
        return lambda clock: tsc_ns(clock)
    return lambda clock: _monotonic_ns(clock)
