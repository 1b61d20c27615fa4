"""One virtqueue: its three areas in guest memory, its kick and its call."""

from __future__ import annotations

import os
import select
import socket
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Self

import numpy as np
import numpy.typing as npt

from ..kernels import vring
from ..kernels.doorbell import Eventfds, Polled, Queue

QUEUE_SIZE = 128
"""Descriptors; what QEMU gives its balloon queues."""

AVAIL_AT = 16 * QUEUE_SIZE
USED_AT = 4096
"""Where the available and the used area begin, behind the descriptors."""

QUEUE_BYTES = 8192
"""Room a queue takes in guest memory."""


def build_ring(area: npt.NDArray[np.uint8], interrupts: bool = True) -> vring.Ring:
    """Lay out a split virtqueue of 128 descriptors in guest memory (virtio 1.x section 2.7).

    `area` has QUEUE_BYTES and is zeroed. Without `interrupts` the driver polls, or knows otherwise.
    """
    if area.shape != (QUEUE_BYTES,):
        raise ValueError(f"area must have {QUEUE_BYTES} bytes, got shape {area.shape}")
    area[:] = 0
    avail = area[AVAIL_AT:][: avail_bytes(QUEUE_SIZE)]
    ring = ring_over(area[:AVAIL_AT], avail, area[USED_AT:])
    if not interrupts:
        ring.avail[vring.FLAGS] = vring.NO_INTERRUPT
    return ring


def avail_bytes(size: int) -> int:
    """Return the bytes of the available area of a queue of so many entries."""
    return 2 * (vring.ENTRIES + size + 1)


def used_bytes(size: int) -> int:
    """Return the bytes of the used area, without its ``avail_event``."""
    return 4 + 8 * size


def ring_over(
    desc: npt.NDArray[np.uint8], avail: npt.NDArray[np.uint8], used: npt.NDArray[np.uint8]
) -> vring.Ring:
    """Return a ring over its three areas in memory (uint8; virtio 1.x section 2.7)."""
    return vring.Ring(
        desc=desc.view(vring.DESCRIPTOR),
        avail=avail.view(np.uint16),
        used=used[:4].view(np.uint16),
        used_ring=used[4 : 4 + 8 * (desc.size // 16)].view(vring.USED_ENTRY),
        control=np.zeros(2, np.int64),
        taken=np.zeros(1, np.int64),
    )


class DeviceQueue(ABC):
    """A virtqueue as its device has it; `ends` is what driver and device kernels take."""

    ends: Queue

    @property
    def ring(self) -> vring.Ring:
        """The queue's areas."""
        return self.ends.ring

    @abstractmethod
    def kick(self) -> None:
        """Wake the device."""

    @abstractmethod
    def call(self) -> None:
        """Wake the driver."""

    def stop(self) -> None:
        """Ask the device to leave its loop."""
        self.ring.control[vring.STOP] = 1
        self.kick()

    def break_down(self, reason: int) -> None:
        """Mark the queue as broken, unless it is already, and wake both ends."""
        if self.ring.control[vring.BROKEN] == 0:
            self.ring.control[vring.BROKEN] = reason
        self.call()
        self.stop()

    @property
    def broken(self) -> str | None:
        """Why the device needs a reset; None while it works."""
        return vring.BROKEN_REASONS.get(int(self.ring.control[vring.BROKEN]))


class Virtqueue(DeviceQueue):
    """A virtqueue between two threads, with eventfds for kick and call.

    `area` (uint8, shape (QUEUE_BYTES,)) is guest memory for it, zeroed here. With `busy_wait` the
    driver polls the used index instead of sleeping until it is called.
    """

    def __init__(self, area: npt.NDArray[np.uint8], busy_wait: bool = False) -> None:
        ring = build_ring(area, interrupts=not busy_wait)
        self._fds = [os.eventfd(0)]
        try:
            self._fds.append(os.eventfd(0))
        except BaseException:
            self.close()
            raise
        self.ends = Queue(ring, Eventfds(*self._fds))

    def kick(self) -> None:
        """Wake the device."""
        os.eventfd_write(self._fds[0], 1)

    def call(self) -> None:
        """Wake the driver."""
        os.eventfd_write(self._fds[1], 1)

    def close(self) -> None:
        """Close the eventfds; both ends must have left."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SharedQueue(DeviceQueue):
    """A virtqueue whose driver is another process: its ring, its kick and its call.

    `kick_fd` and `call_fd` are the driver's descriptors, closed here; anything that can be polled
    will do for the kick (ValueError where it cannot). The device is woken to stop by a descriptor
    of its own.
    """

    def __init__(self, ring: vring.Ring, kick_fd: int, call_fd: int) -> None:
        self._fds = [kick_fd, call_fd]
        try:
            self._stop = os.eventfd(0)
            self._fds.append(self._stop)
            self._epoll = select.epoll()
            for fd in (kick_fd, self._stop):
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            self._kind = stat.S_IFMT(os.fstat(call_fd).st_mode)
            # A driver that never reads must not hold the device. Not of an eventfd, which takes
            # 2**64 calls and is the same for both ends: the driver's reads would not block either.
            if self._kind == stat.S_IFIFO:  # opened anew: nobody else can have it block again
                self._fds[1] = os.open(f"/proc/self/fd/{call_fd}", os.O_WRONLY | os.O_NONBLOCK)
                os.close(call_fd)
            elif self._kind == stat.S_IFSOCK:
                os.set_blocking(call_fd, False)
        except OSError as error:
            self.close()
            raise ValueError(f"the kick of a vring must be a descriptor to poll: {error}") from None
        self.ends = Queue(ring, Polled(self._epoll.fileno(), self._fds[1]))

    def kick(self) -> None:
        """Wake the device."""
        os.eventfd_write(self._stop, 1)

    def stop(self) -> None:
        """Ask the device to leave its loop, whatever its driver does to keep it in a call."""
        super().stop()
        with suppress(OSError):
            if self._kind == stat.S_IFSOCK:
                with socket.socket(fileno=os.dup(self._fds[1])) as call:
                    call.shutdown(socket.SHUT_RDWR)
            elif self._kind == 0:  # an eventfd that is full
                os.preadv(self._fds[1], [bytearray(8)], -1, os.RWF_NOWAIT)

    def call(self) -> None:
        """Wake the driver."""
        with suppress(OSError):  # it is gone, or does not listen
            os.write(self._fds[1], (1).to_bytes(8, "little"))

    def close(self) -> None:
        """Close the descriptors; the device must have left."""
        if hasattr(self, "_epoll"):
            self._epoll.close()
        while self._fds:
            os.close(self._fds.pop())
