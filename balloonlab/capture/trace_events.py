"""The pages that QEMU's balloon device received, read from its trace events as they come."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from threading import Condition, Thread
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..linux.errors import GuestError

EVENTS = ("virtio_queue_notify", "virtio_balloon_handle_output")
"""Events to be enabled: which queue a device is about to read, and each page that it finds."""

INFLATE, DEFLATE, UNKNOWN = 0, 1, 255
"""Numbers of the balloon's queues (virtio 1.x, 5.5.2); before the first notification, unknown."""

_NOTIFY = re.compile(rb"virtio_queue_notify vdev \S+ n (\d+) .*\n?")
_PAGE = re.compile(rb"virtio_balloon_handle_output .*gpa: 0x([0-9a-f]+)")


class Events(NamedTuple):
    """Pages in the order they were sent, and through which queue."""

    pfns: npt.NDArray[np.uint64]
    queues: npt.NDArray[np.uint8]


class Parser:
    """Turns trace output into page numbers, chunk by chunk.

    QEMU handles one queue at a time: pages that follow a notification are of its queue,
    whichever device's it is.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._queue = UNKNOWN
        self.pfns, self.queues = array("Q"), array("B")
        self.n_held = 0  # pages in the balloon by that account

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the output, which may end within a line."""
        lines, end, self._rest = (self._rest + chunk).rpartition(b"\n")
        first, *others = _NOTIFY.split(lines + end)
        self._add(first)
        for queue, text in zip(others[::2], others[1::2], strict=True):
            self._queue = min(int(queue), UNKNOWN)
            self._add(text)

    def _add(self, text: bytes) -> None:
        pages = [int(address, 16) >> 12 for address in _PAGE.findall(text)]
        self.pfns.extend(pages)
        self.queues.frombytes(bytes([self._queue]) * len(pages))
        self.n_held += {INFLATE: len(pages), DEFLATE: -len(pages)}.get(self._queue, 0)


class Listener:
    """Reads the trace output of a running QEMU, from a file descriptor that is closed at its end.

    In a thread of its own: QEMU stands still while nobody reads, the pipe must never fill up.
    """

    def __init__(self, source: int) -> None:
        self._parser = Parser()
        self._changed = Condition()
        self._thread = Thread(target=self._read, args=(source,), daemon=True)
        self._thread.start()

    def _read(self, source: int) -> None:
        with open(source, "rb", buffering=0) as output:
            while chunk := output.read(1 << 20):
                with self._changed:
                    self._parser.feed(chunk)
                    self._changed.notify_all()

    @property
    def n_events(self) -> int:
        """Pages sent so far."""
        return len(self._parser.pfns)

    @property
    def n_held(self) -> int:
        """Pages in the balloon, by the trace events."""
        return self._parser.n_held

    def since(self, start: int) -> Events:
        """Return a copy of the events after the first `start`."""
        with self._changed:
            pfns, queues = self._parser.pfns[start:], self._parser.queues[start:]
        return Events(np.array(pfns, np.uint64), np.array(queues, np.uint8))

    def wait(self, n_held: int, patience_s: float, report: Callable[[float], None]) -> None:
        """Wait until so many pages are held, or none came for `patience_s`; report the share."""
        begin = self.n_held
        with self._changed:
            while self.n_held != n_held:
                before = self.n_events
                report((self.n_held - begin) / (n_held - begin))
                if not self._changed.wait_for(lambda n=before: self.n_events > n, patience_s):  # type: ignore[misc]
                    return

    def join(self) -> None:
        """Wait for the end of the output, after QEMU has ended."""
        self._thread.join()


def settle(events: Events, queue: int) -> npt.NDArray[np.uint64]:
    """Return the pages of one operation, each once, in the order they were sent.

    While a balloon is inflated the guest may migrate a page of it (compaction): the new one
    goes through the inflate queue, the old one through the deflate queue. The last event of a
    page counts; the operation's queue is `INFLATE` or `DEFLATE`.
    """
    if not np.isin(events.queues, (INFLATE, DEFLATE)).all():
        raise GuestError("QEMU traced pages without the queue they came through")
    _, last = np.unique(events.pfns[::-1], return_index=True)
    kept = np.sort(events.pfns.size - 1 - last)
    return events.pfns[kept[events.queues[kept] == queue]]
