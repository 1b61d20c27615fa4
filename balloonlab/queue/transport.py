"""What a driver needs of the way to its device, and that way within one process."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from ..kernels import vring
from ..kernels.doorbell import Queue
from ..wire.features import Feature
from .virtqueue import QUEUE_BYTES, Virtqueue

QUEUES = ("inflate", "deflate", "reporting")
"""Queues by name. They stand one after the other in the guest kernel's own memory."""

BUFFERS_AT = len(QUEUES) * QUEUE_BYTES
"""Where the driver's message buffers begin in that memory, behind all queues."""


def queue_area(own_memory: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """Return the part of the guest kernel's own memory that a queue has."""
    start = QUEUES.index(name) * QUEUE_BYTES
    return own_memory[start : start + QUEUE_BYTES]


class Transport(Protocol):
    """How a driver negotiates with a device, kicks it, and learns that it gave up.

    `own_memory` is the guest kernel's own, for queues and message buffers, `own_gpa` where the
    guest finds it; `queues` are by the names in `QUEUES`, with their doorbells, once negotiated.
    """

    own_memory: npt.NDArray[np.uint8]
    own_gpa: int
    queues: dict[str, Queue]

    def negotiate(self, wanted: Feature) -> Feature:
        """Settle on features: of those `wanted` the ones that the device offers."""

    def check(self, outcome: int) -> None:
        """Raise a RuntimeError where the device has given up, or a kick came to nothing."""

    def abort(self) -> None:
        """Have both ends leave, whatever they wait for."""


class LocalTransport:
    """A `Transport` over virtqueues with eventfds, between two threads of this process.

    The device offers the features `offered`; with `busy_wait` the driver polls instead of
    sleeping. `virtqueues` are the inflate and the deflate queue by name.
    """

    def __init__(
        self, own_memory: npt.NDArray[np.uint8], own_gpa: int, offered: Feature, busy_wait: bool
    ) -> None:
        self.own_memory, self.own_gpa, self._offered = own_memory, own_gpa, offered
        with ExitStack() as stack:
            self.virtqueues = {
                name: stack.enter_context(Virtqueue(queue_area(own_memory, name), busy_wait))
                for name in ("inflate", "deflate")
            }
            self._open = stack.pop_all()
        self.queues = {name: queue.ends for name, queue in self.virtqueues.items()}

    def negotiate(self, wanted: Feature) -> Feature:
        """Settle on features; see `Transport`."""
        return self._offered & wanted

    def check(self, outcome: int) -> None:
        """Raise where a queue is broken (RuntimeError)."""
        for queue in self.virtqueues.values():
            if queue.broken:
                raise RuntimeError(f"the balloon device needs a reset: {queue.broken}")

    def abort(self) -> None:
        """Break the queues: both ends leave."""
        for queue in self.virtqueues.values():
            queue.break_down(vring.INTERRUPTED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
