"""What the driver builds messages with: buffers in its own memory, bitmaps on demand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..address_map import DRIVER_GPA, ram_ranges
from ..kernels import posted, tell
from ..kernels.bitmap_v4 import BITMAP_WORDS, MAX_BITMAPS, RECORD_WORDS
from ..kernels.pfn import PFNS_PER_BUFFER
from ..queue import QUEUE_BYTES
from ..wire import Fault
from ..wire.posted import fault_of

QUEUES_AT = {"inflate": 0, "deflate": QUEUE_BYTES}
"""Where the two queues stand in the guest kernel's own memory; buffers follow."""

_PFNS_AT = 2 * QUEUE_BYTES
_HEADER_AT = _PFNS_AT + 4096
_RECORDS_AT = _HEADER_AT + 4096


class Buffers:
    """A driver's message buffers.

    Everything is written once here, so that timed code meets no page fault.

    Parameters
    ----------
    own_memory : uint8 array
        The guest kernel's own memory at ``DRIVER_GPA``.
    memory_pages : int
        RAM of the guest.
    how : int
        One of the ways to tell in `balloonlab.kernels.tell`.
    """

    def __init__(self, own_memory: npt.NDArray[np.uint8], memory_pages: int, how: int) -> None:
        span = ram_ranges(memory_pages)[-1].end
        self._needed = -(-span // (64 * BITMAP_WORDS))
        self._first = np.full(BITMAP_WORDS, 1, np.uint64)
        offsets = (_PFNS_AT, _HEADER_AT, _RECORDS_AT)
        self._message = tell.Message(
            how=how,
            pfns=own_memory[_PFNS_AT : _PFNS_AT + 4 * PFNS_PER_BUFFER].view(np.uint32),
            header=own_memory[_HEADER_AT : _HEADER_AT + 8].view(np.uint64),
            records=own_memory[_RECORDS_AT : _RECORDS_AT + 8 * RECORD_WORDS].view(np.uint64),
            gpas=np.array([DRIVER_GPA + offset for offset in offsets], np.int64),
            bitmaps=self._first,
            lowest=np.full(-(-memory_pages // 64), 1, np.uint64),
            sorted=np.zeros(0, np.uint64),
            posted=np.zeros(posted.N_STATE, np.int64),
        )

    @property
    def fault(self) -> Fault | None:
        """Where the posted driver crashed its guest; None for any other."""
        return fault_of(self._message.posted)

    def for_operation(self, n_pages: int, bitmaps: int) -> tuple[tell.Message, int]:
        """Take as many bitmaps as the guest's page numbers need and memory allows.

        Taken before the operation, when an inflation has not yet taken the memory, and
        dropped with the message. The first one is always at hand.

        Parameters
        ----------
        n_pages : int
            Pages that may have to be sorted by window.
        bitmaps : int
            Bitmaps there is memory for, 0 to 32.

        Returns
        -------
        message : balloonlab.kernels.tell.Message
        n_bitmaps : int
            0 where pages are told as page numbers.
        """
        if self._message.how == tell.PFN_ARRAY:
            return self._message, 0
        n = max(1, min(self._needed, MAX_BITMAPS, bitmaps))
        words = self._first if n == 1 else np.full(n * BITMAP_WORDS, 1, np.uint64)
        room = np.full(n_pages if n < self._needed else 0, 1, np.uint64)
        return self._message._replace(bitmaps=words, sorted=room), n
