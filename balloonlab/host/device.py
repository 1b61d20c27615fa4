"""One queue of the balloon device: a thread in compiled code that answers its kicks."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from ..kernels import clock, faults, vring
from ..kernels import device as kernels
from ..kernels.discard import Verb
from ..queue import DeviceQueue, Worker
from ..sizes import PAGE_BYTES
from ..wire.format import RANGES_PER_BYTE, Format
from .backing import DONTNEED, WILLNEED
from .crew import Crew
from .policy import DISCARDS, Policy
from .ram import GuestRam
from .shared import SharedRam

LOGGER = logging.getLogger("balloonlab.host")
LOGGER.addHandler(logging.NullHandler())  # silent unless the user sets up logging

NO_COMMAND = -1
"""The command id of free page hinting before the driver has sent any."""

EXTENTS = 4096
"""Extents translated before they are discarded, 64 KiB: they stay in the cache."""


def no_balloon(ram_bytes: int) -> npt.NDArray[np.uint64]:
    """Return the bitmap of an empty balloon, a bit per page of a mapping of that size."""
    return np.zeros(-(-ram_bytes // (64 * PAGE_BYTES)), np.uint64)


def no_guard() -> npt.NDArray[np.int64]:
    """Return what the two queues of a device know of pages that are held; none are."""
    return np.zeros(2, np.int64)


def make_state(
    wire_format: Format,
    policy: Policy,
    operation: str,
    balloon: npt.NDArray[np.uint64],
    verb: Verb = DONTNEED,
    room: int = 0,
    crew: Crew | None = None,
    guard: npt.NDArray[np.int64] | None = None,
) -> kernels.Device:
    """Return the state of a device queue as `BalloonDevice` describes it.

    `verb` is what frees this kind of memory.
    """
    words = np.zeros(-(-wire_format.max_message_bytes // 8), np.uint64)
    verb = verb if operation == "inflate" else WILLNEED
    return kernels.Device(
        decoding=int(wire_format.decoding),
        discard=int(DISCARDS[policy.discard]),
        inflating=operation == "inflate",
        verb=verb,
        balloon=balloon,
        words=words,
        ranges=np.zeros((RANGES_PER_BYTE * words.nbytes, 2), np.int64),
        extents=np.zeros((EXTENTS, 2), np.int64),
        state=_fresh_state(),
        faults=np.zeros(1, faults.FAULTS),
        sent=np.full((room, 3), -1, np.int64),  # written once: timed code meets no page fault
        vectors=policy.make_vectors(EXTENTS, verb.page_bytes),
        crew=(crew or Crew.of_none()).state,
        collect=policy.collect if operation == "inflate" else 1,
        guard=no_guard() if guard is None else guard,
    )


def _fresh_state() -> npt.NDArray[np.void]:
    state = np.zeros(1, kernels.STATE)
    state["command"] = NO_COMMAND
    return state


class BalloonDevice:
    """One queue of the host's end: validates, decodes, translates, discards.

    Its `log` holds `log_rows` intervals of that. `balloon`, as `no_balloon` makes it, is which
    pages are in the balloon, shared by the device's two queues; a page is discarded only when it
    enters it, as `policy` says; behind huge pages, when all pages of one have. Pages of the queue
    ``"inflate"`` are discarded by the policy's verb, by default the RAM's own, those of
    ``"deflate"`` advised as needed soon (``MADV_WILLNEED``), as QEMU does. The
    first `room` ranges that messages name are kept in `sent`. Where the policy collects messages,
    the two queues share a `guard`, as `no_guard` makes it.
    """

    def __init__(
        self,
        ram: GuestRam | SharedRam,
        queue: DeviceQueue,
        wire_format: Format,
        policy: Policy,
        log_rows: int,
        balloon: npt.NDArray[np.uint64],
        operation: str = "inflate",
        room: int = 0,
        guard: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._ram, self._queue, self._operation = ram, queue, operation
        self.log = clock.Log.empty(log_rows)
        verb = ram.verb(policy.verb) if operation == "inflate" else WILLNEED
        self._crew = Crew(policy, ram.memory, verb, EXTENTS)
        self._state = make_state(
            wire_format, policy, operation, balloon, verb, room, self._crew, guard
        )
        self._worker = Worker(self._serve, "balloon-device")

    def start(self) -> None:
        """Start answering kicks."""
        self._crew.start()
        self._worker.start()

    def stop(self) -> None:
        """Leave the loop and wait for it; raises what ended the thread, if anything did.

        Bad records go to the log ``balloonlab.host`` then, one by one.
        """
        self._queue.stop()
        try:
            self._worker.join()
        finally:
            self._crew.stop()
        found = self.fault_log()
        for message, text, at in found:
            LOGGER.warning("%s queue, message %d, at %d: %s", self._operation, message, at, text)
        beyond = sum(self.faults().values()) - len(found)
        if beyond:
            LOGGER.warning("%s queue: %d more bad records", self._operation, beyond)
        self._worker.result()

    def settle(self) -> None:
        """Wait until nothing is held that was answered; no message may be under way."""
        while self._state.guard[kernels.HELD] and not self._worker.wait_for(1e-4):
            pass

    def rehearse(self, rehearsing: bool) -> None:
        """Do everything but discard, or everything again; no message may be under way."""
        self._state.state[0]["rehearsing"] = rehearsing

    def clear(self) -> None:
        """Forget what was logged, kept and counted; no message may be under way."""
        self.log.clear()
        for name in ("n_translations", "n_discards", "n_discard_errors", "n_sent"):
            self._state.state[0][name] = 0

    @property
    def n_sent(self) -> int:
        """Ranges that messages named."""
        return int(self._state.state[0]["n_sent"])

    def sent(self) -> npt.NDArray[np.int64]:
        """Return what messages named: rows of first page, pages, and when (ns); a copy.

        A RuntimeError where there was more than `room` for it.
        """
        n = self.n_sent
        if n > len(self._state.sent):
            raise RuntimeError(
                f"the {self._operation} queue named {n} ranges, with room for "
                f"{len(self._state.sent)}: this is a bug in balloonlab, please report the case"
            )
        return self._state.sent[:n].copy()

    @property
    def command(self) -> int:
        """The last command id of free page hinting, `NO_COMMAND` before any."""
        return int(self._state.state[0]["command"])

    @property
    def n_translations(self) -> int:
        """Addresses looked up."""
        return int(self._state.state[0]["n_translations"])

    @property
    def n_discards(self) -> int:
        """Calls that discarded."""
        return int(self._state.state[0]["n_discards"])

    @property
    def n_discard_errors(self) -> int:
        """Calls of madvise that failed."""
        return int(self._state.state[0]["n_discard_errors"])

    def faults(self) -> dict[str, int]:
        """Count the bad records by what was wrong with them."""
        counts = zip(faults.DESCRIPTIONS, self._state.faults[0]["counts"], strict=True)
        return {text: int(count) for text, count in counts if count}

    def fault_log(self) -> list[tuple[int, str, int]]:
        """List the first bad records: message from 1, what was wrong, byte or range number."""
        rows = faults.logged(self._state.faults)
        return [(int(message), faults.DESCRIPTIONS[kind], int(at)) for message, kind, at in rows]

    def _serve(self) -> None:
        try:
            kernels.serve(self._queue.ends, self._ram.memory, self._state, self.log)
        except BaseException:
            self._state.guard[kernels.HELD] = 0  # nobody is to wait for it
            self._queue.break_down(vring.DEVICE_DIED)
            raise
