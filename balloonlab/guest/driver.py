"""The balloon driver: takes pages from the allocator and tells the host."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernels import clock, vring
from ..kernels import driver as kernels
from ..kernels.bitmap_v4 import RECORD_WORDS
from ..kernels.pfn import PFNS_PER_BUFFER
from ..layout import DRIVER_GPA, ram_ranges
from ..pages import Buddy
from ..queue import QUEUE_BYTES, Virtqueue
from ..wire.bitmap import WINDOW_WORDS

_PFNS_AT = QUEUE_BYTES
_HEADER_AT = _PFNS_AT + 4096
_RECORDS_AT = _HEADER_AT + 4096
JOIN_SECONDS = 0.05


@dataclass(frozen=True)
class Inflation:
    """What one inflation did.

    Attributes
    ----------
    pages : uint64 array
        The balloon, in the order the pages were taken.
    wall_ns : int
        The whole operation, read around the compiled call.
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
    protocol : {"pfn", "bitmap-v4"}
    log_rows : int
        Intervals it can log.
    """

    def __init__(
        self,
        own_memory: npt.NDArray[np.uint8],
        queue: Virtqueue,
        buddy: Buddy,
        protocol: str,
        log_rows: int,
    ) -> None:
        self._queue = queue
        self._buddy = buddy
        self._protocol = protocol
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
        counters = np.zeros(3, np.int64)
        result: list[int] = []

        def run() -> None:
            begin = time.monotonic_ns()
            told = self._run_kernel(pages, counters)
            result.extend((told, time.monotonic_ns() - begin))

        thread = threading.Thread(target=run, name="balloon-driver", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(JOIN_SECONDS)
        except KeyboardInterrupt:
            self._queue.break_down(vring.INTERRUPTED)
            thread.join()
            raise
        if not result or self._queue.broken:
            raise RuntimeError(f"the balloon device needs a reset: {self._queue.broken}")
        told, wall_ns = result
        if told < n_pages:
            raise RuntimeError(f"the guest ran out of memory after {told} of {n_pages} pages")
        return Inflation(
            pages,
            wall_ns,
            n_kicks=int(counters[kernels.KICKS]),
            wire_bytes=int(counters[kernels.WIRE_BYTES]),
            n_records=int(counters[kernels.RECORDS]),
        )

    def _run_kernel(self, pages: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64]) -> int:
        blocks, ring = self._buddy.blocks, self._queue.ring
        if self._protocol == "pfn":
            return int(kernels.inflate_pfns(blocks, pages, ring, self._buffers, counters, self.log))
        return int(
            kernels.inflate_bitmap(
                blocks, pages, ring, self._buffers, WINDOW_WORDS, counters, self.log
            )
        )
