"""One queue of the balloon device: a thread in compiled code that answers its kicks."""

from __future__ import annotations

import logging
import mmap

import numpy as np
import numpy.typing as npt

from ..kernels import clock, faults, vring
from ..kernels import device as kernels
from ..kernels.discard import Discard
from ..queue import Virtqueue, Worker
from ..sizes import PAGE_BYTES
from ..wire.format import RANGES_PER_BYTE, Format
from .ram import GuestRam

LOGGER = logging.getLogger("balloonlab.host")
LOGGER.addHandler(logging.NullHandler())  # silent unless the user sets up logging

DISCARDS = {"page": Discard.PER_PAGE, "range": Discard.PER_RANGE}
"""``page``: one call per page, as QEMU does. ``range``: adjacent ranges make one call."""

EXTENTS = 4096
"""Extents translated before they are discarded, 64 KiB: they stay in the cache."""


def no_balloon(ram_bytes: int) -> npt.NDArray[np.uint64]:
    """Return the bitmap of an empty balloon, a bit per page of a mapping of that size."""
    return np.zeros(-(-ram_bytes // (64 * PAGE_BYTES)), np.uint64)


def make_state(
    wire_format: Format, discard: str, operation: str, balloon: npt.NDArray[np.uint64]
) -> kernels.Device:
    """Return the state of a device queue as `BalloonDevice` describes it."""
    if discard not in DISCARDS:
        raise ValueError(f"discard must be one of {', '.join(DISCARDS)}, got {discard!r}")
    words = np.zeros(-(-wire_format.max_message_bytes // 8), np.uint64)
    return kernels.Device(
        decoding=int(wire_format.decoding),
        discard=int(DISCARDS[discard]),
        inflating=operation == "inflate",
        advice=mmap.MADV_DONTNEED if operation == "inflate" else mmap.MADV_WILLNEED,
        balloon=balloon,
        words=words,
        ranges=np.zeros((RANGES_PER_BYTE * words.nbytes, 2), np.int64),
        extents=np.zeros((EXTENTS, 2), np.int64),
        state=np.zeros(1, kernels.STATE),
        faults=np.zeros(1, faults.FAULTS),
    )


class BalloonDevice:
    """One queue of the host's end: validates, decodes, translates, discards.

    Its `log` holds `log_rows` intervals of that. `balloon`, as `no_balloon` makes it, is which
    pages are in the balloon, shared by the device's two queues; a page is discarded only when it
    enters it. `discard` is one of `DISCARDS`. Pages of the queue ``"inflate"`` are discarded
    (``MADV_DONTNEED``), those of ``"deflate"`` advised as needed soon (``MADV_WILLNEED``), as QEMU
    does.
    """

    def __init__(
        self,
        ram: GuestRam,
        queue: Virtqueue,
        wire_format: Format,
        discard: str,
        log_rows: int,
        balloon: npt.NDArray[np.uint64],
        operation: str = "inflate",
    ) -> None:
        self._ram, self._queue, self._operation = ram, queue, operation
        self.log = clock.Log.empty(log_rows)
        self._state = make_state(wire_format, discard, operation, balloon)
        self._worker = Worker(self._serve, "balloon-device")

    def start(self) -> None:
        """Start answering kicks."""
        self._worker.start()

    def stop(self) -> None:
        """Leave the loop and wait for it; raises what ended the thread, if anything did.

        Bad records go to the log ``balloonlab.host`` then, one by one.
        """
        self._queue.stop()
        self._worker.join()
        found = self.fault_log()
        for message, text, at in found:
            LOGGER.warning("%s queue, message %d, at %d: %s", self._operation, message, at, text)
        beyond = sum(self.faults().values()) - len(found)
        if beyond:
            LOGGER.warning("%s queue: %d more bad records", self._operation, beyond)
        self._worker.result()

    @property
    def n_translations(self) -> int:
        """Addresses looked up."""
        return int(self._state.state[0]["n_translations"])

    @property
    def n_discards(self) -> int:
        """Calls of madvise."""
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
            self._queue.break_down(vring.DEVICE_DIED)
            raise
