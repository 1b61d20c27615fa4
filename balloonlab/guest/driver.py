"""The balloon driver: keeps the page list, takes and releases pages, tells the host."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ..kernels import clock, tell, vring
from ..kernels import driver as kernels
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..pages import Buddy
from ..queue import Virtqueue, Worker
from ..wire import Feature, Format, PostedDriverError
from .buffers import Buffers
from .operation import Operation

OFFERED = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.PAGE_BITMAP
"""What the device offers unless told otherwise."""

OOM_PAGES = 256
"""Pages that a guest out of memory gets back at a time (``oom_pages`` of the Linux driver)."""


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
    negotiated_protocol : str
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
        _whole(bitmaps, "bitmaps", MAX_BITMAPS, "the most that a driver takes")
        self._queues = queues
        self._buddy = buddy
        self._format = wire_format
        self.bitmaps = bitmaps
        self.features = self._negotiate(offered)
        uses_records = bool(wire_format.feature & self.features) and bitmaps > 0
        self.negotiated_protocol = wire_format.name if uses_records else "pfn"
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
        most = self._buddy.memory_pages
        change = _whole(n_pages, "n_pages", most, "the guest's pages") - self._held
        return self.inflate(change) if change >= 0 else self.deflate(-change)

    def inflate(self, n_pages: int) -> Operation:
        """Take `n_pages` more single pages from the allocator and tell the host.

        Raises
        ------
        ValueError, TypeError
            The guest has not as much memory; not a whole number.
        RuntimeError
            The allocator ran dry, or the device broke; it says why. Whatever was taken
            is in the balloon.
        """
        room = self._buddy.memory_pages - self._held
        if _whole(n_pages, "n_pages", room, "the guest's other pages") == 0:
            return self._nothing()
        blocks, queue, log = self._buddy.blocks, self._queues["inflate"], self.log
        held, pages = self._held, self._list[: self._held + n_pages]
        done = self._run(
            lambda message, counters: kernels.inflate(
                blocks, pages, held, message, queue.ring, counters, log
            ),
            self._count_in,
            pages[held:],
            pages.size,
        )
        if done.pages.size < n_pages:
            raise RuntimeError(
                f"the guest ran out of memory after {done.pages.size} of {n_pages} pages"
            )
        return done

    def deflate(self, n_pages: int) -> Operation:
        """Tell the host of the newest `n_pages` of the balloon and release them.

        Raises
        ------
        ValueError, TypeError
            The balloon has not as many pages; not a whole number.
        RuntimeError
            The device broke; it says why. What was not released is in the balloon.
        """
        if _whole(n_pages, "n_pages", self._held, "the pages in the balloon") == 0:
            return self._nothing()
        blocks, queue, log = self._buddy.blocks, self._queues["deflate"], self.log
        pages, leaving = self._list[: self._held], np.full(n_pages, 1, np.uint64)
        return self._run(
            lambda message, counters: kernels.deflate(
                blocks, pages, leaving, message, queue.ring, counters, log
            ),
            lambda n_released: self._count_in(-n_released),
            leaving,
            n_pages,
        )

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
        ValueError, TypeError
            The page is not in the balloon; not a whole number.
        RuntimeError
            There is no other page, or the device broke; it says why.
        """
        held = self._list[: self._held]
        at = np.flatnonzero(held == operator.index(pfn))
        if at.size == 0:
            raise ValueError(f"pfn must be a page in the balloon, got {pfn}")
        blocks, log = self._buddy.blocks, self.log
        rings = [self._queues[name].ring for name in ("inflate", "deflate")]
        pages = np.array([0, pfn], np.uint64)

        def settle(steps: int) -> None:
            if steps == 2:
                held[at[0] : -1] = held[at[0] + 1 :]
                self._count_in(-1)
            if steps > 0:
                self._list[self._held] = pages[0]
                self._count_in(1)

        done = self._run(
            lambda message, counters: kernels.migrate(
                blocks, pages[1:], pages[:1], message, *rings, counters, log
            ),
            settle,
            pages,
            1,
        )
        if done.pages.size == 0:
            raise RuntimeError(f"the guest has no page to put in the place of {pfn}")
        return done

    def _nothing(self) -> Operation:
        return Operation(np.zeros(0, np.uint64), self.negotiated_protocol, 0)

    def _count_in(self, n_pages: int) -> None:
        """Account for pages that entered the balloon (left it, where negative).

        Without DEFLATE_ON_OOM they are no longer the guest's memory; with it the guest
        can get them back at need, and they stay.
        """
        self._held += n_pages
        if Feature.DEFLATE_ON_OOM not in self.features:
            self._buddy.managed_pages -= n_pages

    def _check_works(self) -> None:
        """Refuse to go on after the device, or the guest as posted, has given up."""
        for queue in self._queues.values():
            if queue.broken:
                raise RuntimeError(f"the balloon device needs a reset: {queue.broken}")
        if fault := self._buffers.fault:
            raise PostedDriverError(f"as posted, the guest crashes here: {fault}")

    def _run(
        self,
        operate: Callable[[tell.Message, npt.NDArray[np.int64]], int],
        settle: Callable[[int], None],
        pages: npt.NDArray[np.uint64],
        n_walked: int,
    ) -> Operation:
        """Run an operation in a thread of its own; both ends have left when this raises.

        `operate` takes the message buffers and the counters, and returns how many of
        `pages` it has dealt with; `settle` enters them in the books, whether or not the
        operation went on to its end. `n_walked` is the length of the list they are in.
        """
        self._check_works()
        message, n_bitmaps = self._buffers.for_operation(n_walked, self.bitmaps)
        counters = np.zeros(5, np.int64)
        worker = Worker(lambda: int(operate(message, counters)), "balloon-driver")
        try:
            worker.start()
            worker.wait()
        except BaseException:
            for queue in self._queues.values():
                queue.break_down(vring.INTERRUPTED)
            worker.join()
            settle(worker.result() or 0)
            raise
        n_done = worker.result() or 0
        settle(n_done)
        self._check_works()
        return Operation(
            pages[:n_done].copy(),
            negotiated_protocol=self.negotiated_protocol,
            n_bitmaps=n_bitmaps,
            wall_ns=int(counters[tell.END_NS] - counters[tell.BEGIN_NS]),
            n_kicks=int(counters[tell.KICKS]),
            wire_bytes=int(counters[tell.WIRE_BYTES]),
            n_records=int(counters[tell.RECORDS]),
        )


def _whole(value: int, name: str, most: int, what: str) -> int:
    number = operator.index(value)
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be 0 to {most}, {what}, got {value}")
    return number
