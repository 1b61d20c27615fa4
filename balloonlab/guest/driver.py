"""The balloon driver: keeps the page list, takes and releases pages, sends them to the host."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from ..kernels import clock
from ..kernels import driver as kernels
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..kernels.encode import BLOCKS_PER_KICK
from ..kernels.formats import Encoding
from ..kernels.pfn import PFNS_PER_BUFFER
from ..kernels.tsc import Tsc
from ..pages import Buddy
from ..queue import Transport
from ..sizes import PAGE_BYTES
from ..wire import Feature, Format, PostedDriverError
from .buffers import Buffers
from .operation import Operation
from .thread import run_in_thread

OFFERED = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.PAGE_BITMAP
"""What balloonlab's device offers unless asked otherwise."""

REPORTING = "reporting"
"""Free page reporting (virtio 1.x section 5.5.6.7): blocks of free pages, a descriptor each."""


class BalloonDriver:
    """The guest's end of the balloon: negotiation, its page list, and its queues.

    It may log as many intervals as `log_rows`. `bitmaps`, of 32 KiB, are those that the guest has
    memory for, 0 to 32; they may be changed between operations, as memory gets short. `run` is who
    runs an operation (`balloonlab.guest.thread`), and `tsc` its clock where that is no system call.
    `features` are what was negotiated: the device
    must speak accordingly. `negotiated_protocol` is that of `wire_format`, or ``"pfn"`` where it
    was not offered or there is no memory for a single bitmap.

    Operations raise a ValueError or TypeError for what is no number of pages that can move, and a
    RuntimeError where the device broke, which says why; pages are in the balloon then that were
    taken, or not yet released.

    The first bitmap is taken before the feature is accepted. As posted, the driver accepted first,
    and cleared the bit on its own side when the allocation failed: its device went on to read page
    numbers as records (``bitmap-v4-posted`` with ``bitmaps=0`` does that).
    """

    def __init__(
        self,
        transport: Transport,
        buddy: Buddy,
        wire_format: Format,
        log_rows: int,
        bitmaps: int = MAX_BITMAPS,
        run: Callable[..., int] = run_in_thread,
        tsc: Tsc | None = None,
    ) -> None:
        _whole(bitmaps, "bitmaps", MAX_BITMAPS, "the most that a driver takes")
        self._transport, self._buddy, self._run_by = transport, buddy, run
        self.bitmaps = bitmaps
        wanted = Feature.MUST_TELL_HOST | Feature.DEFLATE_ON_OOM | wire_format.feature
        if bitmaps == 0 and wire_format.names_each_page_once:
            wanted &= ~Feature.PAGE_BITMAP
        self.features = transport.negotiate(wanted)
        has_bitmaps = bitmaps > 0 or Feature.PAGE_BITMAP not in wire_format.feature
        agreed = wire_format.feature in self.features and has_bitmaps
        self.negotiated_protocol = wire_format.name if agreed else "pfn"
        self.log = clock.Log.empty(log_rows, tsc)
        # Written once, so that timed code meets no page fault.
        self._list = np.full(buddy.memory_pages, 1, np.uint64)
        self._held = 0
        encoding = wire_format.encoding if agreed else Encoding.PFNS
        self._buffers = Buffers(transport, buddy.memory_pages, encoding)

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
        """Take `n_pages` more single pages from the allocator and send them.

        A RuntimeError, too, where the allocator ran dry.
        """
        room = self._buddy.memory_pages - self._held
        _whole(n_pages, "n_pages", room, "the guest's other pages")
        held, pages = self._held, self._list[: self._held + n_pages]
        encoder, n_bitmaps = self._buffers.for_operation(pages.size, self.bitmaps)
        blocks, queue = self._buddy.blocks, self._transport.queues["inflate"]
        operate = partial(kernels.inflate, blocks, pages, held, encoder, queue)
        done = self._run(operate, pages[held:], n_bitmaps, self._count_in)
        if done.pages.size < n_pages:
            raise RuntimeError(
                f"the guest ran out of memory after {done.pages.size} of {n_pages} pages"
            )
        return done

    def report(self, n_blocks: int, order: int) -> Operation:
        """Take free blocks of ``2**order`` pages and report them, 32 per kick."""
        encoder = self._buffers.for_blocks(order, PAGE_BYTES << order)
        firsts = np.full(n_blocks, 1, np.uint64)
        blocks, queue = self._buddy.blocks, self._transport.queues[REPORTING]
        return self._run(partial(kernels.inflate, blocks, firsts, 0, encoder, queue), firsts)

    def deflate(self, n_pages: int) -> Operation:
        """Send the newest `n_pages` of the balloon to the host and release them."""
        _whole(n_pages, "n_pages", self._held, "the pages in the balloon")
        pages, leaving = self._list[: self._held], np.full(n_pages, 1, np.uint64)
        encoder, n_bitmaps = self._buffers.for_operation(n_pages, self.bitmaps)
        blocks, queue = self._buddy.blocks, self._transport.queues["deflate"]
        operate = partial(kernels.deflate, blocks, pages, leaving, encoder, queue)
        return self._run(operate, leaving, n_bitmaps, lambda n: self._count_in(-n))

    def migrate(self, pfn: int) -> Operation:
        """Migrate a ballooned page, as memory compaction asks a driver to.

        The new page is inflated, then the old one deflated; only then is it the guest's again. The
        new page is the list's newest. A RuntimeError, too, where there is no other page.
        """
        held = self._list[: self._held]
        at = np.flatnonzero(held == operator.index(pfn))
        if at.size == 0:
            raise ValueError(f"pfn must be a page in the balloon, got {pfn}")
        ends = [self._transport.queues[name] for name in ("inflate", "deflate")]
        pages = np.array([0, pfn], np.uint64)
        new, old = pages[:1], pages[1:]
        encoder, n_bitmaps = self._buffers.for_operation(1, self.bitmaps)

        def settle(steps: int) -> None:
            if steps == 2:
                held[at[0] : -1] = held[at[0] + 1 :]
                self._count_in(-1)
            if steps > 0:
                self._list[self._held] = new[0]
                self._count_in(1)

        operate = partial(kernels.migrate, self._buddy.blocks, old, new, encoder, *ends)
        done = self._run(operate, pages, n_bitmaps, settle)
        if done.pages.size == 0:
            raise RuntimeError(f"the guest has no page to migrate {pfn} to")
        return done

    def rehearse(
        self, queue: str, pages: npt.NDArray[np.uint64], n_pairs: int, order: int = 0
    ) -> Operation:
        """Send an empty message and `pages` in turn, `n_pairs` times; nothing is kept of it.

        On the reporting queue `pages` are the first pages of blocks of ``2**order``, each sent
        with a byte missing at its end.
        """
        most = BLOCKS_PER_KICK if queue == REPORTING else PFNS_PER_BUFFER
        _whole(pages.size, "pages.size", most, "what one message takes")
        if queue == REPORTING:
            encoder = self._buffers.for_blocks(order, (PAGE_BYTES << order) - 1)
        else:
            encoder, _ = self._buffers.for_operation(pages.size, self.bitmaps)
        ends = self._transport.queues[queue]
        return self._run(partial(kernels.rehearse, pages, n_pairs, encoder, ends), pages)

    def _count_in(self, n_pages: int) -> None:
        """Account for pages that entered the balloon (left it, where negative)."""
        self._held += n_pages

    def _check_works(self, outcome: int) -> None:
        """Refuse to go on after the device, or the guest as posted, has given up."""
        self._transport.check(outcome)
        if fault := self._buffers.fault:
            raise PostedDriverError(fault)

    def _run(
        self,
        operate: Callable[..., int],
        pages: npt.NDArray[np.uint64],
        n_bitmaps: int = 0,
        settle: Callable[[int], None] = lambda n: None,
    ) -> Operation:
        """Run an operation, check that the device took it, and sum it up.

        `operate` takes the counters and the log and returns how many of `pages` it has dealt
        with; `settle` enters them in the books.
        """
        if pages.size == 0:
            return Operation(pages, self.negotiated_protocol, 0)
        counters = np.zeros(1, kernels.COUNTERS)
        done = counters[0]
        self._check_works(int(done["outcome"]))
        n_done = self._run_by(partial(operate, counters, self.log), self._transport.abort, settle)
        self._check_works(int(done["outcome"]))
        return Operation(
            pages[:n_done].copy(),
            negotiated_protocol=self.negotiated_protocol,
            n_bitmaps=n_bitmaps,
            wall_ns=int(done["end_ns"] - done["begin_ns"]),
            **{name: int(done[name]) for name in ("n_kicks", "wire_bytes", "n_records")},
        )


def _whole(value: int, name: str, most: int, what: str) -> int:
    number = operator.index(value)
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be 0 to {most}, {what}, got {value}")
    return number
