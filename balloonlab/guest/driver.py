"""The balloon driver: keeps the page list, takes and releases pages, tells the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernels import clock, vring
from ..kernels import driver as kernels
from ..kernels.bitmap_v4 import RECORD_WORDS
from ..kernels.pfn import FORMAT, PFNS_PER_BUFFER
from ..layout import DRIVER_GPA, ram_ranges
from ..pages import Buddy
from ..queue import QUEUE_BYTES, Virtqueue, Worker
from ..wire import Format

QUEUES_AT = {"inflate": 0, "deflate": QUEUE_BYTES}
"""Where the two queues stand in the guest kernel's own memory; buffers follow."""

_PFNS_AT = 2 * QUEUE_BYTES
_HEADER_AT = _PFNS_AT + 4096
_RECORDS_AT = _HEADER_AT + 4096


@dataclass(frozen=True)
class Operation:
    """What one inflation or deflation did.

    Attributes
    ----------
    pages : uint64 array
        Pages told, in the order in which they entered or left the balloon.
    wall_ns : int
        The whole operation, read at its two ends in the compiled code: Python's own
        threads have no part in it.
    n_kicks, wire_bytes, n_records : int
        What went over the queue.
    """

    pages: npt.NDArray[np.uint64]
    wall_ns: int
    n_kicks: int
    wire_bytes: int
    n_records: int


class BalloonDriver:
    """The guest's end of the balloon: its page list, and both queues.

    Parameters
    ----------
    own_memory : uint8 array
        The guest kernel's own memory at ``DRIVER_GPA``; message buffers stand there,
        behind the queues.
    queues : mapping of str to Virtqueue
        The inflate and the deflate queue, by the names in `QUEUES_AT`.
    buddy : Buddy
        Where pages come from and go back to.
    wire_format : balloonlab.wire.Format
        How pages are told.
    log_rows : int
        Intervals it can log.

    Attributes
    ----------
    log : balloonlab.kernels.clock.Log
        Intervals of the last operation.
    """

    def __init__(
        self,
        own_memory: npt.NDArray[np.uint8],
        queues: Mapping[str, Virtqueue],
        buddy: Buddy,
        wire_format: Format,
        log_rows: int,
    ) -> None:
        self._queues = queues
        self._buddy = buddy
        self._format = wire_format
        self.log = clock.Log.empty(log_rows)
        # Written once here and below, so that timed code meets no page fault.
        self._list = np.full(buddy.memory_pages, 1, np.uint64)
        self._held = 0
        span = ram_ranges(buddy.memory_pages)[-1].end
        offsets = (_PFNS_AT, _HEADER_AT, _RECORDS_AT)
        self._buffers = kernels.Buffers(
            pfns=own_memory[_PFNS_AT : _PFNS_AT + 4 * PFNS_PER_BUFFER].view(np.uint32),
            header=own_memory[_HEADER_AT : _HEADER_AT + 8].view(np.uint64),
            records=own_memory[_RECORDS_AT : _RECORDS_AT + 8 * RECORD_WORDS].view(np.uint64),
            gpas=np.array([DRIVER_GPA + offset for offset in offsets], np.int64),
            words=np.full(-(-span // 64), 1, np.uint64),
            lowest=np.full(-(-span // 64), 1, np.uint64),
        )

    @property
    def pages(self) -> npt.NDArray[np.uint64]:
        """The balloon's pages, oldest first (a copy)."""
        return self._list[: self._held].copy()

    def set_target(self, n_pages: int) -> Operation:
        """Inflate or deflate to `n_pages`, as the device's ``num_pages`` asks a driver to."""
        change = n_pages - self._held
        return self.inflate(change) if change >= 0 else self.deflate(-change)

    def inflate(self, n_pages: int) -> Operation:
        """Take `n_pages` more single pages from the allocator and tell the host.

        Raises
        ------
        ValueError
            The guest has not as much memory.
        RuntimeError
            The allocator ran dry (what it gave is in the balloon and told), or the
            device broke; it says why.
        """
        room = self._buddy.memory_pages - self._held
        if not 0 <= n_pages <= room:
            raise ValueError(f"n_pages must be 0 to {room}, the guest's other pages, got {n_pages}")
        entering = self._list[self._held : self._held + n_pages]
        kernel = kernels.inflate_pfns if self._legacy else kernels.inflate_bitmap
        done = self._run(kernel, self._queues["inflate"], entering)
        told = done.pages.size
        self._held += told
        if told < n_pages:
            raise RuntimeError(f"the guest ran out of memory after {told} of {n_pages} pages")
        return done

    def deflate(self, n_pages: int) -> Operation:
        """Tell the host of the newest `n_pages` of the balloon and release them.

        Raises
        ------
        ValueError
            The balloon has not as many pages.
        RuntimeError
            The device broke; it says why.
        """
        if not 0 <= n_pages <= self._held:
            raise ValueError(
                f"n_pages must be 0 to {self._held}, the pages in the balloon, got {n_pages}"
            )
        leaving = np.full(n_pages, 1, np.uint64)
        kernel = kernels.deflate_pfns if self._legacy else kernels.deflate_bitmap
        done = self._run(kernel, self._queues["deflate"], self._list[: self._held], leaving)
        self._held -= n_pages
        return done

    @property
    def _legacy(self) -> bool:
        return self._format.number == FORMAT

    def _run(
        self,
        kernel: Callable[..., int],
        queue: Virtqueue,
        *lists: npt.NDArray[np.uint64],
    ) -> Operation:
        """Run an operation in a thread of its own; both ends have left when this raises."""
        self.log.clear()
        counters = np.zeros(5, np.int64)
        if lists[-1].size == 0:
            return Operation(lists[-1], 0, 0, 0, 0)
        arguments = (self._buddy.blocks, *lists, queue.ring, self._buffers, counters, self.log)
        worker = Worker(lambda: int(kernel(*arguments)), "balloon-driver")
        try:
            worker.start()
            worker.wait()
        except BaseException:
            queue.break_down(vring.INTERRUPTED)
            worker.wait_out()
            raise
        told = worker.result()
        if queue.broken or told is None:
            raise RuntimeError(f"the balloon device needs a reset: {queue.broken}")
        return Operation(
            lists[-1][:told].copy(),
            wall_ns=int(counters[kernels.END_NS] - counters[kernels.BEGIN_NS]),
            n_kicks=int(counters[kernels.KICKS]),
            wire_bytes=int(counters[kernels.WIRE_BYTES]),
            n_records=int(counters[kernels.RECORDS]),
        )
