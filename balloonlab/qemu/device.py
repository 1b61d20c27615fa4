"""balloonlab's driver at QEMU's own balloon device: negotiation, queues, both protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from ..kernels import clock, vring
from ..kernels import qtest as kernels
from ..kernels.pfn import PFNS_PER_BUFFER
from ..kernels.tell import BEGIN_NS, END_NS, KICKS, RECORDS, WIRE_BYTES
from ..pages import Buddy
from ..queue import QUEUE_BYTES, QUEUE_SIZE, Worker
from ..sizes import PAGE_BYTES
from .process import QemuProcess
from .qtest import QemuError

TRANSPORTS, TRANSPORT_BYTES, N_TRANSPORTS = 0xFEB00000, 0x200, 32
BALLOON_ID = 5
MAGIC = 0x74726976

# Registers of virtio-mmio (virtio 1.x section 4.2.2)
DEVICE_ID, STATUS, QUEUE_NOTIFY = 0x008, 0x070, 0x050
_DEVICE_FEATURES, _DEVICE_FEATURES_SEL = 0x010, 0x014
_DRIVER_FEATURES, _DRIVER_FEATURES_SEL = 0x020, 0x024
_QUEUE_SEL, _QUEUE_MAX, _QUEUE_NUM, _QUEUE_READY = 0x030, 0x034, 0x038, 0x044
_DESC, _AVAIL, _USED = 0x080, 0x090, 0x0A0

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64

BLOCKS_PER_KICK = 32
"""Blocks that free page reporting posts at once (``PAGE_REPORTING_CAPACITY`` of Linux)."""

NO_RAM_PFN = 0xFEC00
"""The I/O interrupt controller's page: QEMU looks it up like any other, and passes it over."""

_MESSAGE_AT = 3 * QUEUE_BYTES

_OUTCOMES = {
    kernels.REFUSED: "QEMU refused the kick: its qtest answered {answer!r}",
    kernels.NOT_USED: "QEMU answered the kick but did not use the buffer",
}


class Feature(IntFlag):
    """Feature bits of today's device (virtio 1.x section 5.5.3) and of the transport."""

    MUST_TELL_HOST = 1 << 0
    STATS_VQ = 1 << 1
    FREE_PAGE_HINT = 1 << 3
    REPORTING = 1 << 5
    VERSION_1 = 1 << 32


@dataclass(frozen=True)
class Telling:
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
        self._qtest = process.qtest
        self._base = self._find()
        offered = self._offered()
        self.features = self._negotiate(offered)
        # QEMU numbers its queues by what it offers: inflate, deflate, then the optional ones.
        optional = Feature.STATS_VQ, Feature.FREE_PAGE_HINT
        self._queues = {
            "inflate": 0,
            "deflate": 1,
            "reporting": 2 + sum(feature in offered for feature in optional),
        }
        self._rings = {
            name: self._set_up(index, place * QUEUE_BYTES)
            for place, (name, index) in enumerate(self._queues.items())
        }
        self._add_status(DRIVER_OK)
        self.log = clock.Log.empty(log_rows)

    def _find(self) -> int:
        for base in range(TRANSPORTS, TRANSPORTS + N_TRANSPORTS * TRANSPORT_BYTES, TRANSPORT_BYTES):
            if (
                self._qtest.readl(base) == MAGIC
                and self._qtest.readl(base + DEVICE_ID) == BALLOON_ID
            ):
                return base
        raise QemuError("QEMU has no balloon device on its virtio-mmio transports")

    def _offered(self) -> Feature:
        words = []
        for page in range(2):
            self._write(_DEVICE_FEATURES_SEL, page)
            words.append(self._qtest.readl(self._base + _DEVICE_FEATURES))
        return Feature(words[0] | words[1] << 32)

    def _negotiate(self, offered: Feature) -> Feature:
        needed = Feature.REPORTING | Feature.VERSION_1
        if needed not in offered:
            raise QemuError(
                f"QEMU's balloon device does not offer {needed & ~offered!r}: QEMU 6.0 or later "
                "with free-page-reporting=on is needed"
            )
        accepted = needed | offered & Feature.MUST_TELL_HOST
        self._write(STATUS, 0)
        self._add_status(ACKNOWLEDGE)
        self._add_status(DRIVER)
        for page in range(2):
            self._write(_DRIVER_FEATURES_SEL, page)
            self._write(_DRIVER_FEATURES, accepted >> 32 * page & 0xFFFFFFFF)
        self._add_status(FEATURES_OK)
        return accepted

    def _set_up(self, index: int, start: int) -> vring.Ring:
        """Give a queue its memory and tell the device; the ring that kernels take."""
        self._write(_QUEUE_SEL, index)
        if self._qtest.readl(self._base + _QUEUE_MAX) < QUEUE_SIZE:
            raise QemuError(f"QEMU's balloon device has no queue {index} of {QUEUE_SIZE} entries")
        avail_at, used_at = 16 * QUEUE_SIZE, QUEUE_BYTES // 2
        self._write(_QUEUE_NUM, QUEUE_SIZE)
        for register, offset in ((_DESC, 0), (_AVAIL, avail_at), (_USED, used_at)):
            gpa = self._process.driver_gpa + start + offset
            self._write(register, gpa & 0xFFFFFFFF)
            self._write(register + 4, gpa >> 32)
        area = self._process.driver_memory[start : start + QUEUE_BYTES]
        area[:] = 0
        avail_end = avail_at + 2 * (vring.ENTRIES + QUEUE_SIZE + 1)
        ring = vring.Ring(
            desc=area[:avail_at].view(vring.DESCRIPTOR),
            avail=area[avail_at:avail_end].view(np.uint16),
            used=area[used_at : used_at + 4].view(np.uint16),
            used_ring=area[used_at + 4 : used_at + 4 + 8 * QUEUE_SIZE].view(vring.USED_ENTRY),
            events=np.full(2, -1, np.int64),
            control=np.zeros(2, np.int64),
            taken=np.zeros(1, np.int64),
        )
        ring.avail[vring.FLAGS] = vring.NO_INTERRUPT  # nobody runs who could take one
        self._write(_QUEUE_READY, 1)
        return ring

    def _write(self, register: int, value: int) -> None:
        self._qtest.writel(self._base + register, value)

    def _add_status(self, bit: int) -> None:
        """Set a status bit; the device must keep it."""
        self._write(STATUS, self._qtest.readl(self._base + STATUS) | bit)
        status = self._qtest.readl(self._base + STATUS)
        if not status & bit or status & NEEDS_RESET:
            raise QemuError(f"QEMU's balloon device refuses the driver: status {status:#x}")

    def _link(self, queue: str, block_bytes: int) -> kernels.Link:
        line = f"writel {self._base + QUEUE_NOTIFY:#x} {self._queues[queue]:#x}\n"
        pfns = self._process.driver_memory[_MESSAGE_AT : _MESSAGE_AT + 4 * PFNS_PER_BUFFER]
        return kernels.Link(
            fd=self._qtest.fileno(),
            request=np.frombuffer(line.encode(), np.uint8).copy(),
            reply=np.zeros(64, np.uint8),
            pfns=pfns.view(np.uint32),
            gpa=self._process.driver_gpa + _MESSAGE_AT,
            block_bytes=block_bytes,
        )

    def inflate(self, buddy: Buddy, n_pages: int) -> Telling:
        """Take single pages from the allocator and tell them as PFNs, 256 a kick."""
        link, firsts = self._link("inflate", 0), np.full(n_pages, 1, np.uint64)
        return self._take_and_tell(buddy, 0, PFNS_PER_BUFFER, firsts, "inflate", link)

    def report(self, buddy: Buddy, n_blocks: int, order: int) -> Telling:
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
    ) -> Telling:
        blocks, ring, log = buddy.blocks, self._rings[queue], self.log
        return self._run(
            lambda counters: kernels.inflate(
                blocks, order, step, firsts, ring, link, counters, log
            ),
            firsts,
            link,
        )

    def deflate(self, buddy: Buddy, pages: npt.NDArray[np.uint64]) -> Telling:
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
    ) -> Telling:
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
    ) -> Telling:
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
            worker.wait_out()
            raise
        told = worker.result() or 0
        outcome = int(counters[kernels.OUTCOME])
        if outcome == kernels.NO_ANSWER:
            raise QemuError(self._process.explain())
        if outcome != kernels.ANSWERED:
            answer = link.reply.tobytes().split(b"\n")[0].decode(errors="replace")
            raise QemuError(_OUTCOMES[outcome].format(answer=answer))
        return Telling(
            firsts=firsts[:told],
            wall_ns=int(counters[END_NS] - counters[BEGIN_NS]),
            cpu_ns=self._process.cpu_ns() - cpu_ns,
            n_kicks=int(counters[KICKS]),
            wire_bytes=int(counters[WIRE_BYTES]),
            n_records=int(counters[RECORDS]),
        )
