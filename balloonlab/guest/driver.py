"""The balloon driver: keeps the page list, takes and releases pages, tells the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernels import clock, tell, vring
from ..kernels import driver as kernels
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..pages import Buddy
from ..queue import Virtqueue, Worker
from ..wire import Feature, Format, PostedDriverError
from ..wire.posted import fault_of
from .buffers import Buffers

OFFERED = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.PAGE_BITMAP
"""What the device offers unless told otherwise."""

OOM_PAGES = 256
"""Pages that a guest out of memory gets back at a time (``oom_pages`` of the Linux driver)."""


@dataclass(frozen=True)
class Operation:
    """What one inflation, deflation or migration did.

    Attributes
    ----------
    pages : uint64 array
        Pages told, in the order in which they entered or left the balloon; of a
        migration the page that entered, then the one that left.
    told_as : str
        How they were told: ``"pfn"`` where records could not be used.
    n_bitmaps : int
        Bitmaps that there was memory for; 0 where none was used.
    wall_ns : int
        The whole operation, read at its two ends in the compiled code: Python's own
        threads have no part in it.
    n_kicks, wire_bytes, n_records : int
        What went over the queue.
    """

    pages: npt.NDArray[np.uint64]
    told_as: str
    n_bitmaps: int
    wall_ns: int = 0
    n_kicks: int = 0
    wire_bytes: int = 0
    n_records: int = 0


class BalloonDriver:
    """The guest's end of the balloon: negotiation, its page list, and both queues.

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
        How pages shall be told.
    log_rows : int
        Intervals it can log.
    offered : Feature
        What the device offers.
    bitmaps : int
        Bitmaps of 32 KiB that the guest has memory for, 0 to 32. May be changed between
        operations, as memory gets short.

    Attributes
    ----------
    features : Feature
        What was negotiated: the device must speak accordingly.
    told_as : str
        How pages are told: `wire_format`, or ``"pfn"`` where that was not offered or
        there is no memory for a single bitmap.
    log : balloonlab.kernels.clock.Log
        Intervals since it was cleared last.

    Notes
    -----
    The first bitmap is taken before the feature is accepted. As posted, the driver
    accepted first, and cleared the bit on its own side when the allocation failed:
    its device went on to read page numbers as records (``bitmap-v4-posted`` with
    ``bitmaps=0`` does that).
    """

    def __init__(
        self,
        own_memory: npt.NDArray[np.uint8],
        queues: Mapping[str, Virtqueue],
        buddy: Buddy,
        wire_format: Format,
        log_rows: int,
        offered: Feature = OFFERED,
        bitmaps: int = MAX_BITMAPS,
    ) -> None:
        if not 0 <= bitmaps <= MAX_BITMAPS:
            raise ValueError(f"bitmaps must be 0 to {MAX_BITMAPS}, got {bitmaps}")
        self._queues = queues
        self._buddy = buddy
        self._format = wire_format
        self.bitmaps = bitmaps
        self.features = self._negotiate(offered)
        uses_records = bool(wire_format.feature & self.features) and bitmaps > 0
        self.told_as = wire_format.name if uses_records else "pfn"
        self.log = clock.Log.empty(log_rows)
        # Written once, so that timed code meets no page fault.
        self._list = np.full(buddy.memory_pages, 1, np.uint64)
        self._held = 0
        records = tell.BITMAPS if wire_format.faithful else tell.AS_POSTED
        how = records if uses_records else tell.PFN_ARRAY
        self._buffers = Buffers(own_memory, buddy.memory_pages, how)

    def _negotiate(self, offered: Feature) -> Feature:
        wanted = Feature.MUST_TELL_HOST | Feature.DEFLATE_ON_OOM | self._format.feature
        if self.bitmaps == 0 and self._format.faithful:
            wanted &= ~Feature.PAGE_BITMAP
        return offered & wanted

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
        if n_pages == 0:
            return self._nothing()
        blocks, queue, log = self._buddy.blocks, self._queues["inflate"], self.log
        held, pages = self._held, self._list[: self._held + n_pages]
        done = self._run(
            lambda message, counters: kernels.inflate(
                blocks, pages, held, message, queue.ring, counters, log
            ),
            [queue],
            pages[held:],
            pages.size,
        )
        told = done.pages.size
        self._count_in(told)
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
        if n_pages == 0:
            return self._nothing()
        blocks, queue, log = self._buddy.blocks, self._queues["deflate"], self.log
        pages, leaving = self._list[: self._held], np.full(n_pages, 1, np.uint64)
        done = self._run(
            lambda message, counters: kernels.deflate(
                blocks, pages, leaving, message, queue.ring, counters, log
            ),
            [queue],
            leaving,
            n_pages,
        )
        self._count_in(-n_pages)
        return done

    def give_on_oom(self) -> Operation:
        """Give pages back to a guest that is out of memory: 256 where that was negotiated."""
        agreed = Feature.DEFLATE_ON_OOM in self.features
        return self.deflate(min(OOM_PAGES, self._held) if agreed else 0)

    def migrate(self, pfn: int) -> Operation:
        """Put another page in the place of `pfn`, as memory compaction asks a driver to.

        The new page is told on the inflate queue, then the old one on the deflate
        queue; only then is it the guest's again. The new page is the list's newest.

        Raises
        ------
        ValueError
            The page is not in the balloon.
        RuntimeError
            There is no other page, or the device broke; it says why.
        """
        (at,) = np.nonzero(self._list[: self._held] == np.uint64(max(pfn, 0)))
        if pfn < 0 or at.size == 0:
            raise ValueError(f"pfn must be a page in the balloon, got {pfn}")
        blocks, log = self._buddy.blocks, self.log
        queues = [self._queues["inflate"], self._queues["deflate"]]
        rings = [queue.ring for queue in queues]
        pages = np.array([0, pfn], np.uint64)
        done = self._run(
            lambda message, counters: kernels.migrate(
                blocks, pages[1:], pages[:1], message, *rings, counters, log
            ),
            queues,
            pages,
            1,
        )
        if done.pages.size == 0:
            raise RuntimeError(f"the guest has no page to put in the place of {pfn}")
        self._list[at[0] : self._held - 1] = self._list[at[0] + 1 : self._held]
        self._list[self._held - 1] = pages[0]
        return done

    def _nothing(self) -> Operation:
        return Operation(np.zeros(0, np.uint64), self.told_as, 0)

    def _count_in(self, n_pages: int) -> None:
        """Account for pages that entered the balloon (left it, where negative).

        Without DEFLATE_ON_OOM they are no longer the guest's memory; with it the guest
        can get them back at need, and they stay.
        """
        self._held += n_pages
        if Feature.DEFLATE_ON_OOM not in self.features:
            self._buddy.managed_pages -= n_pages

    def _run(
        self,
        operate: Callable[[tell.Message, npt.NDArray[np.int64]], int],
        queues: list[Virtqueue],
        pages: npt.NDArray[np.uint64],
        n_walked: int,
    ) -> Operation:
        """Run an operation in a thread of its own; both ends have left when this raises.

        `operate` takes the message buffers and the counters, and returns how many of
        `pages` it told; `n_walked` is the length of the list they are part of.
        """
        message, n_bitmaps = self._buffers.for_operation(n_walked, self.bitmaps)
        counters = np.zeros(5, np.int64)
        worker = Worker(lambda: int(operate(message, counters)), "balloon-driver")
        try:
            worker.start()
            worker.wait()
        except BaseException:
            for queue in queues:
                queue.break_down(vring.INTERRUPTED)
            worker.wait_out()
            raise
        n_told = worker.result()
        if fault := fault_of(message.posted):
            raise PostedDriverError(f"as posted, the guest crashes here: {fault}")
        for queue in queues:
            if queue.broken or n_told is None:
                raise RuntimeError(f"the balloon device needs a reset: {queue.broken}")
        return Operation(
            pages[:n_told].copy(),
            told_as=self.told_as,
            n_bitmaps=n_bitmaps,
            wall_ns=int(counters[tell.END_NS] - counters[tell.BEGIN_NS]),
            n_kicks=int(counters[tell.KICKS]),
            wire_bytes=int(counters[tell.WIRE_BYTES]),
            n_records=int(counters[tell.RECORDS]),
        )
