"""A guest that runs as an ordinary process: a User-Mode Linux at balloonlab's own device."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..address_map import pfns_at
from ..host import Policy
from ..linux import STATES, GuestError, LinuxGuest, find
from ..sizes import PAGE_BYTES
from ..wire import Feature
from .planning import Planned
from .trace_events import DEFLATE, INFLATE, Events

LOG_ROWS = 1 << 16
"""Of the device's clock, of which a capture reads nothing."""


class SentToDevice:
    """What our device kept of its two queues, merged by the time of each message."""

    def __init__(self, guest: LinuxGuest) -> None:
        self._guest = guest

    @property
    def n_events(self) -> int:
        """Pages sent so far."""
        return sum(queue.n_sent for queue in self._guest.queues.values())

    @property
    def n_held(self) -> int:
        """Pages in the balloon, by that account."""
        queues = self._guest.queues
        return queues["inflate"].n_sent - queues["deflate"].n_sent

    def since(self, start: int) -> Events:
        """Return the events after the first `start`."""
        parts = [self._guest.queues[name].sent() for name in ("inflate", "deflate")]
        rows = np.concatenate(parts)
        queues = np.repeat(np.array([INFLATE, DEFLATE], np.uint8), [len(part) for part in parts])
        order = np.argsort(rows[:, 2], kind="stable")[start:]
        return Events(rows[order, 0].astype(np.uint64), queues[order])


class NativeGuest:
    """A booted User-Mode Linux; see `balloonlab.capture.session.Guest`. Ends with its context."""

    def __init__(
        self, wanted: Planned, linux: str | os.PathLike[str] | None,
        modules: str | os.PathLike[str] | None, patience_s: float,
    ) -> None:  # fmt: skip
        self.memory_pages = wanted.memory_bytes // PAGE_BYTES
        self._linux, state = find(linux, modules), STATES[wanted.state]
        self._guest = LinuxGuest(
            self._linux,
            wanted.memory_bytes,
            policy=Policy("range"),
            log_rows=LOG_ROWS,
            room=(2 * state.cycles + 1) * self.memory_pages,
            extra=Feature(0),
            disk=state.disk,
            patience_s=patience_s,
        )
        self.wire = self._guest.wire
        self.listener = SentToDevice(self._guest)
        try:
            self._guest.load_driver()
        except BaseException:
            self._guest.close()
            raise

    def facts(self) -> dict[str, Any]:
        """Return what runs the guest."""
        return {"qemu": "", "accelerator": f"User-Mode Linux {self._linux.release}"}

    def spare_bytes(self) -> int:
        """Return what the guest can give without harm: its free memory.

        Its ``MemAvailable`` counts slabs that cannot all be reclaimed. In the state ``slab`` of
        2 GiB a balloon of that size ended in "System is deadlocked on memory".
        """
        return self.wire.meminfo("MemFree")

    def thp(self) -> str:
        """Return the guest's setting for huge pages: User-Mode Linux has none."""
        return "absent"

    def set_balloon(
        self, n_pages: int, patience_s: float, report: Callable[[float], None] = lambda share: None
    ) -> None:
        """Set the balloon's size and wait until it has it, or no page came for `patience_s`."""
        before, begin = self.listener.n_events, self.listener.n_held

        def show(n_sent: int) -> None:
            report(min(1.0, (n_sent - before) / abs(n_pages - begin)))

        with suppress(TimeoutError):
            self._guest.set_balloon(n_pages, patience_s, show)

    def actual_pages(self, expected: int) -> int:
        """Return the pages that the driver says it has."""
        return self._guest.device.actual

    def in_address_map(self, pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return page numbers as `balloonlab.address_map` has them.

        This guest has one zone without a hole; from 3 GiB on its page numbers move up by 1 GiB,
        which keeps all that Linux aligns.
        """
        if pages.size and int(pages.max()) >= self.memory_pages:
            raise GuestError(
                f"the guest's memory must end at page {self.memory_pages}, it sent "
                f"{int(pages.max())}: was it loaded elsewhere than at its usual address?"
            )
        return pfns_at(pages)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._guest.close()
