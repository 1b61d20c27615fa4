"""virtio-mmio of a QEMU process: its balloon device, as a transport of the driver."""

from __future__ import annotations

import numpy as np

from ..kernels import doorbell
from ..kernels.doorbell import Qtest as Doorbell
from ..kernels.doorbell import Queue
from ..queue import QUEUE_SIZE, build_ring
from ..queue.transport import QUEUES, queue_area
from ..queue.virtqueue import AVAIL_AT, QUEUE_BYTES, USED_AT
from ..wire import Feature
from .process import QemuProcess
from .qtest import QemuError

TRANSPORTS, TRANSPORT_BYTES, N_TRANSPORTS = 0xFEB00000, 0x200, 32
BALLOON_ID = 5
MAGIC = 0x74726976

# Registers of virtio-mmio (virtio 1.x section 4.2.2)
_DEVICE_ID, _STATUS, _QUEUE_NOTIFY = 0x008, 0x070, 0x050
_DEVICE_FEATURES, _DEVICE_FEATURES_SEL = 0x010, 0x014
_DRIVER_FEATURES, _DRIVER_FEATURES_SEL = 0x020, 0x024
_QUEUE_SEL, _QUEUE_MAX, _QUEUE_NUM, _QUEUE_READY = 0x030, 0x034, 0x038, 0x044
_DESC, _AVAIL, _USED = 0x080, 0x090, 0x0A0

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64

NEEDED = Feature.REPORTING | Feature.VERSION_1

NO_RAM_PFN = 0xFEC00
"""The I/O interrupt controller's page: QEMU looks it up like any other, and skips it."""


class QemuTransport:
    """The registers and queues of a QEMU's balloon device; see `balloonlab.queue.Transport`.

    Any method raises a `QemuError` where QEMU refuses what it is asked for; so does a `process`
    without a balloon device, or with one that lacks free page reporting.
    """

    def __init__(self, process: QemuProcess) -> None:
        self._process, self._qtest = process, process.qtest
        self.own_memory, self.own_gpa = process.driver_memory, process.driver_gpa
        self._base = self._find()
        self.queues: dict[str, Queue] = {}
        self._reply, self._outcome = np.zeros(64, np.uint8), doorbell.USED

    def _find(self) -> int:
        for base in range(TRANSPORTS, TRANSPORTS + N_TRANSPORTS * TRANSPORT_BYTES, TRANSPORT_BYTES):
            found = self._qtest.readl(base), self._qtest.readl(base + _DEVICE_ID)
            if found == (MAGIC, BALLOON_ID):
                return base
        raise QemuError("QEMU has no balloon device on its virtio-mmio transports")

    def negotiate(self, wanted: Feature) -> Feature:
        """Reset the device, settle on features, and set up its queues."""
        offered = self._offered()
        if NEEDED not in offered:
            raise QemuError(
                f"QEMU's balloon device does not offer {NEEDED & ~offered!r}: QEMU 6.0 or later "
                "with free-page-reporting=on is needed"
            )
        # The driver is built for devices of the series: its bit 3 means something else today.
        accepted = NEEDED | offered & wanted & ~Feature.FREE_PAGE_HINT
        self._write(_STATUS, 0)
        self._add_status(ACKNOWLEDGE)
        self._add_status(DRIVER)
        for page in range(2):
            self._write(_DRIVER_FEATURES_SEL, page)
            self._write(_DRIVER_FEATURES, accepted >> 32 * page & 0xFFFFFFFF)
        self._add_status(FEATURES_OK)
        # QEMU numbers its queues by what it offers: inflate, deflate, then the optional ones.
        optional = Feature.STATS_VQ, Feature.FREE_PAGE_HINT
        reporting = 2 + sum(feature in offered for feature in optional)
        for name, index in zip(QUEUES, (0, 1, reporting), strict=True):
            self.queues[name] = self._set_up(name, index)
        self._add_status(DRIVER_OK)
        return accepted

    def _offered(self) -> Feature:
        words = []
        for page in range(2):
            self._write(_DEVICE_FEATURES_SEL, page)
            words.append(self._qtest.readl(self._base + _DEVICE_FEATURES))
        return Feature(words[0] | words[1] << 32)

    def _set_up(self, name: str, index: int) -> Queue:
        """Give a queue its part of the driver's memory; return it with its doorbell."""
        self._write(_QUEUE_SEL, index)
        if self._qtest.readl(self._base + _QUEUE_MAX) < QUEUE_SIZE:
            raise QemuError(f"QEMU's balloon device has no queue {index} of {QUEUE_SIZE} entries")
        self._write(_QUEUE_NUM, QUEUE_SIZE)
        start = self.own_gpa + QUEUES.index(name) * QUEUE_BYTES
        for register, offset in ((_DESC, 0), (_AVAIL, AVAIL_AT), (_USED, USED_AT)):
            self._write(register, start + offset & 0xFFFFFFFF)
            self._write(register + 4, start + offset >> 32)
        # No interrupts: nobody runs who could take one.
        ring = build_ring(queue_area(self.own_memory, name), interrupts=False)
        self._write(_QUEUE_READY, 1)
        line = f"writel {self._base + _QUEUE_NOTIFY:#x} {index:#x}\n".encode()
        request = np.frombuffer(line, np.uint8).copy()
        return Queue(ring, Doorbell(self._qtest.fileno(), request, self._reply))

    def check(self, outcome: int) -> None:
        """Raise what became of a kick, then or earlier (QemuError)."""
        outcome = self._outcome = self._outcome or outcome
        if outcome == doorbell.NO_ANSWER:
            raise QemuError(self._process.explain())
        if outcome == doorbell.REFUSED:
            answer = self._reply.tobytes().split(b"\n")[0].decode(errors="replace")
            raise QemuError(f"QEMU refused the kick: its qtest answered {answer!r}")
        if outcome == doorbell.NOT_USED:
            raise QemuError("QEMU answered the kick but did not use the buffer")

    def abort(self) -> None:
        """End QEMU: the thread that waits for its answer then reads an end."""
        self._process.kill()

    def _write(self, register: int, value: int) -> None:
        self._qtest.writel(self._base + register, value)

    def _add_status(self, bit: int) -> None:
        """Set a status bit; the device must keep it."""
        self._write(_STATUS, self._qtest.readl(self._base + _STATUS) | bit)
        status = self._qtest.readl(self._base + _STATUS)
        if not status & bit or status & NEEDS_RESET:
            raise QemuError(f"QEMU's balloon device refuses the driver: status {status:#x}")
