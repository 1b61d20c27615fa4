"""One virtqueue: its three areas in guest memory, its kick and its call."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from ..kernels import vring

QUEUE_SIZE = 128
"""Descriptors; what QEMU gives its balloon queues."""

_AVAIL_AT = 16 * QUEUE_SIZE
_USED_AT = 4096
QUEUE_BYTES = 8192
"""Room a queue takes in guest memory: descriptors and available area, then the used area."""


class Virtqueue:
    """A split virtqueue of 128 descriptors (virtio 1.x section 2.7).

    Parameters
    ----------
    area : uint8 array, shape (QUEUE_BYTES,)
        Guest memory for the queue, zeroed here.
    busy_wait : bool
        The driver polls the used index instead of sleeping until it is called.

    Attributes
    ----------
    ring : balloonlab.kernels.vring.Ring
        What driver and device kernels take. Kick and call are eventfds.
    """

    def __init__(self, area: npt.NDArray[np.uint8], busy_wait: bool = False) -> None:
        if area.shape != (QUEUE_BYTES,):
            raise ValueError(f"area must have {QUEUE_BYTES} bytes, got shape {area.shape}")
        area[:] = 0
        avail_end = _AVAIL_AT + 2 * (vring.ENTRIES + QUEUE_SIZE + 1)
        used_ring = area[_USED_AT + 4 : _USED_AT + 4 + 8 * QUEUE_SIZE]
        self._fds = [os.eventfd(0), os.eventfd(0)]
        self.ring = vring.Ring(
            desc=area[:_AVAIL_AT].view(vring.DESCRIPTOR),
            avail=area[_AVAIL_AT:avail_end].view(np.uint16),
            used=area[_USED_AT : _USED_AT + 4].view(np.uint16),
            used_ring=used_ring.view(vring.USED_ENTRY),
            events=np.array(self._fds, np.int64),
            control=np.zeros(2, np.int64),
            taken=np.zeros(1, np.int64),
        )
        if busy_wait:
            self.ring.avail[vring.FLAGS] = vring.NO_INTERRUPT

    def kick(self) -> None:
        """Wake the device."""
        os.eventfd_write(self._fds[vring.KICK], 1)

    def call(self) -> None:
        """Wake the driver."""
        os.eventfd_write(self._fds[vring.CALL], 1)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
