"""The balloon driver: takes pages from the allocator and tells the host."""

from __future__ import annotations

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
from ..wire.bitmap import WINDOW_WORDS

_PFNS_AT = QUEUE_BYTES
_HEADER_AT = _PFNS_AT + 4096
_RECORDS_AT = _HEADER_AT + 4096


@dataclass(frozen=True)
class Inflation:
    """What one inflation did.

    Attributes
    ----------
    pages : uint64 array
        The balloon, in the order the pages were taken.
    wall_ns : int
        The whole operation, from before the first page is taken to after the last
        answer, read in the compiled code: Python's own threads have no part in it.
    n_kicks, wire_bytes, n_records : int
        What went over the queue.
    """

    pages: npt.NDArray[np.uint64]
    wall_ns: int
    n_kicks: int
    wire_bytes: int
    n_records: int


class BalloonDriver:
    """The guest's end of the balloon queue.

    Parameters
    ----------
    own_memory : uint8 array
        The guest kernel's own memory at ``DRIVER_GPA``; message buffers stand there,
        behind the queue.
    queue : Virtqueue
    buddy : Buddy
        Where pages come from.
    wire_format : balloonlab.wire.Format
        How pages are told.
    log_rows : int
        Intervals it can log.
    """

    def __init__(
        self,
        own_memory: npt.NDArray[np.uint8],
        queue: Virtqueue,
        buddy: Buddy,
        wire_format: Format,
        log_rows: int,
    ) -> None:
        self._queue = queue
        self._buddy = buddy
        self._format = wire_format
        self.log = clock.Log.empty(log_rows)
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

    def inflate(self, n_pages: int) -> Inflation:
        """Take `n_pages` single pages and tell the host, in a thread of their own.

        Raises
        ------
        RuntimeError
            The guest ran out of memory, or the device broke; it says why.
        KeyboardInterrupt
            Both ends have left their loops by then.
        """
        pages = np.full(n_pages, 1, np.uint64)  # written once: no page faults in timed code
        counters = np.zeros(5, np.int64)
        worker = Worker(lambda: self._inflate(pages, counters), "balloon-driver")
        worker.start()
        try:
            worker.wait()
        except BaseException:
            self._queue.break_down(vring.INTERRUPTED)
            worker.wait_out()
            raise
        told = worker.result()
        if self._queue.broken:
            raise RuntimeError(f"the balloon device needs a reset: {self._queue.broken}")
        if told < n_pages:
            raise RuntimeError(f"the guest ran out of memory after {told} of {n_pages} pages")
        return Inflation(
            pages,
            wall_ns=int(counters[kernels.END_NS] - counters[kernels.BEGIN_NS]),
            n_kicks=int(counters[kernels.KICKS]),
            wire_bytes=int(counters[kernels.WIRE_BYTES]),
            n_records=int(counters[kernels.RECORDS]),
        )

    def _inflate(self, pages: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64]) -> int:
        state = (self._buddy.blocks, pages, self._queue.ring, self._buffers)
        if self._format.number == FORMAT:
            return int(kernels.inflate_pfns(*state, counters, self.log))
        return int(kernels.inflate_bitmap(*state, WINDOW_WORDS, counters, self.log))
