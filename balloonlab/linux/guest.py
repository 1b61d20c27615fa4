"""A Linux guest whose balloon is balloonlab's device: its state, its memory, its driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..host import BalloonDevice, Policy
from ..host.backend import FIRST_COMMAND, Backend
from ..host.shared import SharedRam
from ..queue.vhost_user import VhostUserError
from ..sizes import MIB, PAGE_BYTES
from ..wire import Feature
from .errors import GuestError
from .states import STATES
from .uml import PATIENCE_S, Linux, Uml
from .wire import Report, nobody

KEPT = 0x6B657074
"""The upper half of the words with which each page of the kept file begins and ends."""

UNTOUCHED_BYTES = 64 * MIB
"""Free memory that a guest does not write into, and 3 % of all, lest it kill its only process."""

STALLED_S = 15.0
"""Seconds without a page after which the guest has no more; its driver tries again every 0.2 s."""

SILENCE_S = 5.0
"""Seconds without a report after which the guest has no more; it looks every 2 s."""


class Kept(NamedTuple):
    """Pages of the mapping that hold a file of the guest whose contents are known."""

    pages: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint64]


class LinuxGuest:
    """A User-Mode Linux and a balloon device; `Uml` says what `linux` and the rest are.

    `policy`, `log_rows`, `room`, `extra` are of the device (`balloonlab.host.backend.Backend`).
    Methods raise a `GuestError` where guest or driver fail; with the end of its console. `advance`
    is called with the bytes by which a measured balloon has moved since its last call.
    """

    def __init__(
        self, linux: Linux, memory_bytes: int, *, policy: Policy, log_rows: int, room: int,
        extra: Feature, disk: bool = False, patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self.memory_bytes, self._patience_s = memory_bytes, patience_s
        self.advance: Callable[[int], object] = nobody
        with ExitStack() as stack:
            self._uml = stack.enter_context(
                Uml(linux, memory_bytes, disk=disk, patience_s=patience_s)
            )
            self.device = stack.enter_context(
                Backend(self._uml.socket, policy, log_rows, room, extra)
            )
            self.wire = self._uml.boot()
            self._open = stack.pop_all()

    @property
    def ram(self) -> SharedRam:
        """The guest's memory, once its driver is there."""
        if self.device.ram is None:
            raise GuestError("the guest has no memory to be seen before load_driver()")
        return self.device.ram

    @property
    def queues(self) -> dict[str, BalloonDevice]:
        """The device's queues by name, once the driver is there."""
        return self.device.devices

    def age(self, state: str, seed: int = 1, report: Report = nobody) -> list[str]:
        """Bring the guest into one of `STATES`; return the commands that did it."""
        available = self.wire.meminfo("MemAvailable")
        commands = [f"seed {seed}", *STATES[state].commands(self.memory_bytes, available)]
        for command in commands:
            self.wire.run(command, report)
        return commands

    def touch(self, advance: Callable[[int], object] = lambda n_bytes: None) -> None:
        """Have the guest write into its free memory, but for a little of it.

        `advance` is called with the bytes written since its last call.
        """
        least = max(UNTOUCHED_BYTES, self.memory_bytes * 3 // 100)
        n_bytes = max(0, self.wire.meminfo("MemAvailable") - least)
        done = 0

        def report(share: float) -> None:
            nonlocal done
            advance(int(share * self.memory_bytes) - done)
            done = int(share * self.memory_bytes)

        self.wire.run(f"touch {n_bytes}", report)
        report(1)

    def keep(self, n_bytes: int) -> None:
        """Have the guest fill so much memory with a file whose pages are known."""
        self.wire.run(f"keep {n_bytes}")

    def load_driver(self) -> None:
        """Load the balloon's driver, and wait until its queues are set up."""
        self.wire.run("load")
        with self._explaining():
            self.device.wait_for_driver(self._patience_s)

    def back_all(self) -> None:
        """Have the host back all of the guest's memory, whatever the guest has written to."""
        self.ram.back_all()

    def set_balloon(
        self, n_pages: int, stalled_s: float = STALLED_S, report: Callable[[int], object] = nobody
    ) -> tuple[int, int]:
        """Set the balloon's size, wait until it has it; return when both was, in ns.

        A TimeoutError, too, when no page came for `stalled_s`.
        """
        with self._explaining():
            begin_ns = self.device.set_target(n_pages)
            return begin_ns, self.device.wait_for_actual(n_pages, stalled_s, report)

    def hint(self) -> int:
        """Have the driver hint all its free blocks; return when it was asked, in ns."""
        with self._explaining():
            begin_ns = self.device.hint(FIRST_COMMAND)
            self.device.wait_for_hints(self._patience_s)
        return begin_ns

    def report(self) -> int:
        """Take the driver's reports until no more come; return when the first was let through."""
        with self._explaining():
            begin_ns = self.device.start_reporting()
            self.device.wait_for_silence(SILENCE_S)
        return begin_ns

    def find_kept(self) -> Kept:
        """Find the kept file's pages in the host's mapping; reads no page that is not backed."""
        pages = np.flatnonzero(self.ram.resident())
        words = self._first_words(pages)
        found = words >> np.uint64(32) == KEPT
        return Kept(pages[found], words[found])

    def count_lost(self, kept: Kept, ballooned: npt.NDArray[np.bool_]) -> int:
        """Count the kept pages outside the balloon that do not hold what they did."""
        there = self.ram.resident()[kept.pages] & ~ballooned[kept.pages]
        same = np.zeros(kept.pages.size, bool)
        same[there] = self._first_words(kept.pages[there]) == kept.words[there]
        return int((~same & ~ballooned[kept.pages]).sum())

    def check_kept(self) -> int:
        """Have the guest read its file again, or 32,768 pages of it; return the wrong ones."""
        return int(self.wire.run("kept").split()[1])

    def _first_words(self, pages: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        return self.ram.memory.ram.view(np.uint64)[pages * (PAGE_BYTES // 8)]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Add the guest's console to errors of its driver."""
        try:
            yield
        except VhostUserError as error:
            raise self._uml.explained(f"the guest's driver failed: {error}") from None

    def close(self) -> None:
        """End the guest."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
