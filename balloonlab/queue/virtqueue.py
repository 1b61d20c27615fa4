"""One virtqueue: its three areas in guest memory, its kick and its call."""

from __future__ import annotations

import os
from typing import Self

import numpy as np
import numpy.typing as npt

from ..kernels import vring
from ..kernels.doorbell import Eventfds, Queue

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
    avail_end = AVAIL_AT + 2 * (vring.ENTRIES + QUEUE_SIZE + 1)
    ring = vring.Ring(
        desc=area[:AVAIL_AT].view(vring.DESCRIPTOR),
        avail=area[AVAIL_AT:avail_end].view(np.uint16),
        used=area[USED_AT : USED_AT + 4].view(np.uint16),
        used_ring=area[USED_AT + 4 : USED_AT + 4 + 8 * QUEUE_SIZE].view(vring.USED_ENTRY),
        control=np.zeros(2, np.int64),
        taken=np.zeros(1, np.int64),
    )
    if not interrupts:
        ring.avail[vring.FLAGS] = vring.NO_INTERRUPT
    return ring


class Virtqueue:
    """A virtqueue between two threads, with eventfds for kick and call.

    `area` (uint8, shape (QUEUE_BYTES,)) is guest memory for it, zeroed here. With `busy_wait` the
    driver polls the used index instead of sleeping until it is called. `ends` is what driver and
    device kernels take.
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

    @property
    def ring(self) -> vring.Ring:
        """The queue's areas."""
        return self.ends.ring

    def kick(self) -> None:
        """Wake the device."""
        os.eventfd_write(self._fds[0], 1)

    def call(self) -> None:
        """Wake the driver."""
        os.eventfd_write(self._fds[1], 1)

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

    def close(self) -> None:
        """Close the eventfds; both ends must have left."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
