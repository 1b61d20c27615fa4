"""The balloon driver: takes and releases pages, sends them to the host, keeps the books."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from ..kernels import clock
from ..kernels import driver as kernels
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..kernels.encode import BLOCKS_PER_KICK, Encoder
from ..kernels.formats import Encoding
from ..kernels.sending import COUNTERS, MOST_IN_FLIGHT
from ..kernels.tsc import Tsc
from ..pages import Buddy
from ..queue import Transport
from ..sizes import PAGE_BYTES
from ..wire import Feature, Format, PostedDriverError
from .balloon import Balloon, Chunks, SinglePages, Step
from .buffers import Buffers
from .operation import Operation
from .thread import run_in_thread

OFFERED = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.PAGE_BITMAP
"""What balloonlab's device offers unless asked otherwise."""

REPORTING = "reporting"
"""Free page reporting (virtio 1.x section 5.5.6.7): blocks of free pages, a descriptor each."""


class BalloonDriver:
    """The guest's end of the balloon: negotiation, its pages, and its queues.

    It may log as many intervals as `log_rows`. `bitmaps`, of 32 KiB, are those that the guest has
    memory for, 0 to 32; they may be changed between operations, as memory gets short. `run` is who
    runs an operation (`balloonlab.guest.thread`), and `tsc` its clock where that is no system call.
    With `chunks` it takes and sends the largest blocks of pages that the allocator has, where
    records were negotiated; it needs no bitmap for that. Up to `in_flight` messages, 1 to 32, are
    on a queue at a time (1 of the driver as posted). `features` are what was negotiated: the device
    must speak accordingly. `negotiated_protocol` is that of `wire_format`, or ``"pfn"``
    where it was not offered or there is no memory for a single bitmap.

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
        chunks: bool = False,
        in_flight: int = 1,
    ) -> None:
        _whole(bitmaps, "bitmaps", MAX_BITMAPS, "the most that a driver takes")
        most = MOST_IN_FLIGHT if wire_format.names_each_page_once else 1
        _whole(in_flight - 1, "in_flight - 1", most - 1, "what has buffers")
        self._transport, self._buddy, self._run_by = transport, buddy, run
        self.bitmaps = bitmaps
        has_bitmaps = chunks or bitmaps > 0 or Feature.PAGE_BITMAP not in wire_format.feature
        wanted = Feature.MUST_TELL_HOST | Feature.DEFLATE_ON_OOM | wire_format.feature
        if not has_bitmaps and wire_format.names_each_page_once:
            wanted &= ~Feature.PAGE_BITMAP
        self.features = transport.negotiate(wanted)
        agreed = wire_format.feature in self.features and has_bitmaps
        self.negotiated_protocol = wire_format.name if agreed else "pfn"
        self.log = clock.Log.empty(log_rows, tsc)
        encoding = wire_format.encoding if agreed else Encoding.PFNS
        self._chunks = chunks and encoding == Encoding.RECORDS
        self._balloon: Balloon = Chunks(buddy) if self._chunks else SinglePages(buddy)
        self._kick_pages = wire_format.kick_pages
        sizes = self._kick_pages, in_flight
        self._buffers = Buffers(transport, buddy.memory_pages, encoding, *sizes)

    @property
    def pages(self) -> npt.NDArray[np.uint64]:
        """The balloon's pages, oldest first (a copy)."""
        return self._balloon.pages

    def set_target(self, n_pages: int) -> Operation:
        """Inflate or deflate to `n_pages`, as the device's ``num_pages`` asks a driver to."""
        most = self._buddy.memory_pages
        change = _whole(n_pages, "n_pages", most, "the guest's pages") - self._balloon.n_pages
        return self.inflate(change) if change >= 0 else self.deflate(-change)

    def inflate(self, n_pages: int) -> Operation:
        """Take `n_pages` more from the allocator and send them.

        A RuntimeError, too, where the allocator ran dry.
        """
        held = self._balloon.n_pages
        room = self._buddy.memory_pages - held
        if not _whole(n_pages, "n_pages", room, "the guest's other pages"):
            return self._nothing()
        encoder, n_bitmaps = self._encoder(held + n_pages)
        done = self._run(self._balloon.inflating(n_pages), encoder, n_bitmaps, "inflate")
        if done.pages.size < n_pages:
            raise RuntimeError(
                f"the guest ran out of memory after {done.pages.size} of {n_pages} pages"
            )
        return done

    def report(self, n_blocks: int, order: int) -> Operation:
        """Take free blocks of ``2**order`` pages and report them, 32 per kick."""
        encoder = self._buffers.for_blocks(order, PAGE_BYTES << order)
        firsts = np.full(n_blocks, 1, np.uint64)
        step = Step(partial(kernels.inflate, self._buddy.blocks, firsts, 0), lambda n: firsts[:n])
        return self._run(step, encoder, 0, REPORTING) if n_blocks else self._nothing()

    def deflate(self, n_pages: int) -> Operation:
        """Send the newest `n_pages` of the balloon to the host and release them."""
        if not _whole(n_pages, "n_pages", self._balloon.n_pages, "the pages in the balloon"):
            return self._nothing()
        encoder, n_bitmaps = self._encoder(n_pages)
        return self._run(self._balloon.deflating(n_pages), encoder, n_bitmaps, "deflate")

    def migrate(self, pfn: int) -> Operation:
        """Migrate a ballooned page, as memory compaction asks a driver to.

        The new page is inflated, then the old one deflated; only then is it the guest's again. The
        new page is the list's newest. A RuntimeError, too, where there is no other page.
        """
        step = self._balloon.migrating(pfn)
        encoder, n_bitmaps = self._encoder(1)
        done = self._run(step, encoder, n_bitmaps, "inflate", "deflate")
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
        most = BLOCKS_PER_KICK if queue == REPORTING else self._kick_pages
        if not _whole(pages.size, "pages.size", most, "what one message takes"):
            return self._nothing()
        if queue == REPORTING:
            encoder = self._buffers.for_blocks(order, (PAGE_BYTES << order) - 1)
        else:
            encoder = self._encoder(pages.size)[0]._replace(in_flight=1)
        step = Step(partial(kernels.rehearse, pages, n_pairs), lambda n: pages[:n])
        return self._run(step, encoder, 0, queue)

    def _encoder(self, n_pages: int) -> tuple[Encoder, int]:
        """Return an encoder for an operation, and how many bitmaps it has."""
        if self._chunks:
            return self._buffers.for_operation(0, 1)[0], 0
        return self._buffers.for_operation(n_pages, self.bitmaps)

    def _check_works(self, outcome: int) -> None:
        """Refuse to go on after the device, or the guest as posted, has given up."""
        self._transport.check(outcome)
        if fault := self._buffers.fault:
            raise PostedDriverError(fault)

    def _nothing(self) -> Operation:
        return Operation(np.zeros(0, np.uint64), self.negotiated_protocol, 0)

    def _run(self, step: Step, encoder: Encoder, n_bitmaps: int, *queues: str) -> Operation:
        """Run an operation, check that the device took it, and sum it up."""
        counters = np.zeros(1, COUNTERS)
        done = counters[0]
        self._check_works(int(done["outcome"]))
        ends = [self._transport.queues[name] for name in queues]
        operate = partial(step.operate, encoder, *ends, counters, self.log)
        n_done = self._run_by(operate, self._transport.abort, step.settle)
        self._check_works(int(done["outcome"]))
        return Operation(
            step.pages(n_done),
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
