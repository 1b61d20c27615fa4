"""balloonlab's driver at QEMU's own balloon device: negotiation, queues, both protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernels import clock
from ..kernels import qtest as kernels
from ..kernels.pfn import PFNS_PER_BUFFER
from ..kernels.tell import BEGIN_NS, END_NS, KICKS, RECORDS, WIRE_BYTES
from ..pages import Buddy
from ..queue import QUEUE_BYTES, Worker
from ..sizes import PAGE_BYTES
from .process import QemuProcess
from .qtest import QemuError
from .transport import Feature, Transport

BLOCKS_PER_KICK = 32
"""Blocks that free page reporting posts at once (``PAGE_REPORTING_CAPACITY`` of Linux)."""

NO_RAM_PFN = 0xFEC00
"""The I/O interrupt controller's page: QEMU looks it up like any other, and passes it over."""

_MESSAGE_AT = 3 * QUEUE_BYTES

_OUTCOMES = {
    kernels.REFUSED: "QEMU refused the kick: its qtest answered {answer!r}",
    kernels.NOT_USED: "QEMU answered the kick but did not use the buffer",
}


@dataclass(frozen=True)
class Operation:
    """What one inflation, deflation or rehearsal did.

    Attributes
    ----------
    firsts : uint64 array
        First page of each block told, in order; blocks are single pages as PFNs.
    wall_ns : int
        0 of a rehearsal.
    cpu_ns : int
        Processor time that QEMU used meanwhile.
    n_kicks, wire_bytes, n_records : int
        What went over the queue. A descriptor that tells a block counts as 16 bytes.
    """

    firsts: npt.NDArray[np.uint64]
    wall_ns: int
    cpu_ns: int
    n_kicks: int
    wire_bytes: int
    n_records: int


class QemuBalloon:
    """A driver that has negotiated with the balloon device of a QEMU process.

    Parameters
    ----------
    process : QemuProcess
    log_rows : int
        Intervals it can log.

    Attributes
    ----------
    features : Feature
        What was negotiated.
    log : balloonlab.kernels.clock.Log
        Intervals since it was cleared last.

    Raises
    ------
    QemuError
        There is no balloon device, it lacks free page reporting, or it refuses the driver.
    """

    def __init__(self, process: QemuProcess, log_rows: int = 16) -> None:
        self._process = process
        self._transport = Transport(process)
        offered = self._transport.offered()
        self.features = self._negotiate(offered)
        # QEMU numbers its queues by what it offers: inflate, deflate, then the optional ones.
        optional = Feature.STATS_VQ, Feature.FREE_PAGE_HINT
        self._queues = {
            "inflate": 0,
            "deflate": 1,
            "reporting": 2 + sum(feature in offered for feature in optional),
        }
        self._rings = {
            name: self._transport.set_up(index, place * QUEUE_BYTES)
            for place, (name, index) in enumerate(self._queues.items())
        }
        self._transport.begin()
        self.log = clock.Log.empty(log_rows)

    def _negotiate(self, offered: Feature) -> Feature:
        needed = Feature.REPORTING | Feature.VERSION_1
        if needed not in offered:
            raise QemuError(
                f"QEMU's balloon device does not offer {needed & ~offered!r}: QEMU 6.0 or later "
                "with free-page-reporting=on is needed"
            )
        accepted = needed | offered & Feature.MUST_TELL_HOST
        self._transport.accept(accepted)
        return accepted

    def _link(self, queue: str, block_bytes: int) -> kernels.Link:
        line = f"writel {self._transport.notify_gpa:#x} {self._queues[queue]:#x}\n"
        pfns = self._process.driver_memory[_MESSAGE_AT : _MESSAGE_AT + 4 * PFNS_PER_BUFFER]
        return kernels.Link(
            fd=self._process.qtest.fileno(),
            request=np.frombuffer(line.encode(), np.uint8).copy(),
            reply=np.zeros(64, np.uint8),
            pfns=pfns.view(np.uint32),
            gpa=self._process.driver_gpa + _MESSAGE_AT,
            block_bytes=block_bytes,
        )

    def inflate(self, buddy: Buddy, n_pages: int) -> Operation:
        """Take single pages from the allocator and tell them as PFNs, 256 a kick."""
        link, firsts = self._link("inflate", 0), np.full(n_pages, 1, np.uint64)
        return self._take_and_tell(buddy, 0, PFNS_PER_BUFFER, firsts, "inflate", link)

    def report(self, buddy: Buddy, n_blocks: int, order: int) -> Operation:
        """Take free blocks of ``2**order`` pages and report them, 32 a kick."""
        link = self._link("reporting", PAGE_BYTES << order)
        firsts = np.full(n_blocks, 1, np.uint64)
        return self._take_and_tell(buddy, order, BLOCKS_PER_KICK, firsts, "reporting", link)

    def _take_and_tell(
        self,
        buddy: Buddy,
        order: int,
        step: int,
        firsts: npt.NDArray[np.uint64],
        queue: str,
        link: kernels.Link,
    ) -> Operation:
        blocks, ring, log = buddy.blocks, self._rings[queue], self.log
        return self._run(
            lambda counters: kernels.inflate(
                blocks, order, step, firsts, ring, link, counters, log
            ),
            firsts,
            link,
        )

    def deflate(self, buddy: Buddy, pages: npt.NDArray[np.uint64]) -> Operation:
        """Tell all `pages` of a balloon as PFNs, the newest (last) first, and release them."""
        link, ring, log = self._link("deflate", 0), self._rings["deflate"], self.log
        blocks, leaving = buddy.blocks, np.full(pages.size, 1, np.uint64)
        return self._run(
            lambda counters: kernels.deflate(
                blocks, PFNS_PER_BUFFER, pages, leaving, ring, link, counters, log
            ),
            leaving,
            link,
        )

    def rehearse(
        self, queue: str, firsts: npt.NDArray[np.uint64], n_pairs: int, order: int = 0
    ) -> Operation:
        """Make round trips that discard nothing: an empty message and a full one, in turn.

        The empty one names no page. The full one QEMU decodes and looks up. On the PFN queues
        it looks for a device's page `firsts.size` times, and finds no RAM. On the reporting
        queue it maps and finds the blocks `firsts`, and passes each over, because a byte is
        missing at its end.
        """
        if queue == "reporting":
            batch, link = firsts, self._link(queue, (PAGE_BYTES << order) - 1)
        else:
            batch, link = np.full(firsts.size, NO_RAM_PFN, np.uint64), self._link(queue, 0)
        ring, log = self._rings[queue], self.log
        return self._run(
            lambda counters: kernels.rehearse(batch, n_pairs, ring, link, counters, log),
            batch,
            link,
        )

    def _run(
        self,
        operate: Callable[[npt.NDArray[np.int64]], int],
        firsts: npt.NDArray[np.uint64],
        link: kernels.Link,
    ) -> Operation:
        """Run an operation in a thread of its own; it has left when this returns or raises.

        Interrupted, QEMU is ended: the thread that waits for its answer then reads an end.
        """
        counters = np.zeros(kernels.N_COUNTERS, np.int64)
        worker = Worker(lambda: int(operate(counters)), "balloon-driver")
        cpu_ns = self._process.cpu_ns()
        try:
            worker.start()
            worker.wait()
        except BaseException:
            self._process.kill()
            worker.join()
            raise
        told = worker.result() or 0
        outcome = int(counters[kernels.OUTCOME])
        if outcome == kernels.NO_ANSWER:
            raise QemuError(self._process.explain())
        if outcome != kernels.ANSWERED:
            answer = link.reply.tobytes().split(b"\n")[0].decode(errors="replace")
            raise QemuError(_OUTCOMES[outcome].format(answer=answer))
        return Operation(
            firsts=firsts[:told],
            wall_ns=int(counters[END_NS] - counters[BEGIN_NS]),
            cpu_ns=self._process.cpu_ns() - cpu_ns,
            n_kicks=int(counters[KICKS]),
            wire_bytes=int(counters[WIRE_BYTES]),
            n_records=int(counters[RECORDS]),
        )
