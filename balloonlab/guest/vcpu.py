"""Who runs the driver: a virtual processor of this process, which a thread of it enters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np

from ..kernels.doorbell import Eventfds, Ports, Queue
from ..vcpu import Vcpu
from .thread import run_in_thread


class Exits(NamedTuple):
    """How often one operation left its virtual machine.

    Attributes
    ----------
    kicks : int
        By the driver's own count; KVM sees to them, and does not leave the kernel.
    waits : int
        By the driver's own count.
    left : int
        How often the run loop saw it leave: as often as it waited, and once to return.
    """

    kicks: int
    waits: int
    left: int


class InVcpu:
    """Runs a driver's operations inside a vCPU; `exits` has a row for each."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.clock = vcpu.clock.tsc
        self.exits: list[Exits] = []
        self._vcpu = vcpu
        self._written = np.zeros(2, np.int64)

    def queue(self, queue: Queue) -> Queue:
        """Return the driver's end of a queue, with ports in the place of its eventfds."""
        doorbell = queue.doorbell
        if not isinstance(doorbell, Eventfds):
            raise TypeError(f"queue must have eventfds, which ports stand for, got {doorbell!r}")
        kick, wait = self._vcpu.kick_port(doorbell.kick), self._vcpu.wait_port(doorbell.call)
        return Queue(queue.ring, Ports(kick, wait, self._written))

    def run(
        self,
        operate: partial[int],
        abort: Callable[[], None],
        settle: Callable[[int], None],
        beside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> int:
        """Run an operation as `run_in_thread` does, its memory and its clock made ready before.

        A RuntimeError where the machine was left another number of times than the driver waited.
        """
        function, arguments = operate.func, operate.args
        self._vcpu.warm(function, *arguments)
        self._vcpu.calibrate()
        self._written[:] = 0
        before = self._ports_left()
        call = partial(self._vcpu.call_within, beside, function, *arguments)
        n_done = run_in_thread(call, abort, settle)
        kicks, waits = map(int, self._written)
        exits = Exits(kicks, waits, self._ports_left() - before)
        self.exits.append(exits)
        if exits.left != waits + 1:
            raise RuntimeError(
                f"the driver waited {waits} times and returned, but the virtual machine was left "
                f"{exits.left} times; this is a bug in balloonlab, please report it"
            )
        return n_done

    def _ports_left(self) -> int:
        return self._vcpu.exits().get("port I/O", 0)
