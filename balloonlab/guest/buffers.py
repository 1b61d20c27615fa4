"""What the driver encodes messages into: buffers in its own memory, bitmaps on demand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..address_map import ram_ranges
from ..kernels.bitmap_v4 import BITMAP_WORDS, MAX_BITMAPS, RECORD_WORDS
from ..kernels.encode import Encoder
from ..kernels.formats import Encoding
from ..queue import Transport
from ..queue.transport import BUFFERS_AT
from ..sizes import PAGE_BYTES
from ..wire import Fault
from ..wire.format import make_encoder
from ..wire.posted import fault_of

_HEADER_AT = BUFFERS_AT
_AT = _HEADER_AT + PAGE_BYTES  # page numbers or records: a driver sends one of them


class Buffers:
    """A driver's message buffers in the transport's own memory.

    Everything is written once here, so that timed code meets no page fault.
    """

    def __init__(
        self,
        transport: Transport,
        memory_pages: int,
        encoding: int,
        kick_pages: int,
        in_flight: int,
    ) -> None:
        span = ram_ranges(memory_pages)[-1].end
        self._needed = -(-span // (64 * BITMAP_WORDS))
        own = transport.own_memory
        encoder = make_encoder(encoding, memory_pages, 1, kick_pages, in_flight)
        words = -(-kick_pages // 2) if encoding == Encoding.PFNS else RECORD_WORDS
        buffers = _written(own, _AT, 8 * words * in_flight)
        self._encoder = encoder._replace(
            pfns=buffers.view(np.uint32),
            header=_written(own, _HEADER_AT, 8 * in_flight).view(np.uint64),
            records=buffers.view(np.uint64),
            pfns_gpa=transport.own_gpa + _AT,
            header_gpa=transport.own_gpa + _HEADER_AT,
            records_gpa=transport.own_gpa + _AT,
        )

    @property
    def fault(self) -> Fault | None:
        """Where the posted driver crashed its guest; None for any other."""
        return fault_of(self._encoder.posted[0])

    def for_operation(self, n_pages: int, bitmaps: int) -> tuple[Encoder, int]:
        """Return an encoder, and how many bitmaps it has: 0 where pages are sent as page numbers.

        As many bitmaps as the guest's page numbers need and memory allows (`bitmaps`, 0 to 32; the
        first one is always at hand), and room for `n_pages` to be sorted by window. They are taken
        before the operation, when an inflation has not yet taken the memory, and dropped with the
        encoder.
        """
        if self._encoder.encoding == Encoding.PFNS:
            return self._encoder, 0
        n = max(1, min(self._needed, MAX_BITMAPS, bitmaps))
        words = self._encoder.bitmaps if n == 1 else np.full(n * BITMAP_WORDS, 1, np.uint64)
        n_windows = -(-self._needed // n)
        room = np.full(n_pages if n_windows > 1 else 0, 1, np.uint64)
        ends = np.zeros(n_windows, np.int64)
        chosen = np.full(words.size if self._encoder.chosen.size else 0, 1, np.uint8)
        return self._encoder._replace(bitmaps=words, sorted=room, ends=ends, chosen=chosen), n

    def for_blocks(self, order: int, block_bytes: int) -> Encoder:
        """Return an encoder of blocks of ``2**order`` pages; descriptors say `block_bytes`."""
        return self._encoder._replace(
            encoding=int(Encoding.BLOCKS), block_order=order, block_bytes=block_bytes
        )


def _written(own_memory: npt.NDArray[np.uint8], at: int, n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return a part of the driver's memory, written once; a ValueError where there is no room."""
    if at + n_bytes > own_memory.size:
        raise ValueError(
            f"own_memory must have {at + n_bytes} bytes for queues and buffers, got "
            f"{own_memory.size}: send fewer pages per kick, or have fewer messages in flight"
        )
    own_memory[at : at + n_bytes] = 1
    return own_memory[at : at + n_bytes]
