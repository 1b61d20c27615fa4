"""virtio-mmio of a QEMU process: its balloon device is found, negotiated with, given queues."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from ..kernels import vring
from ..queue import QUEUE_BYTES, QUEUE_SIZE
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


class Feature(IntFlag):
    """Feature bits of today's device (virtio 1.x section 5.5.3) and of the transport."""

    MUST_TELL_HOST = 1 << 0
    STATS_VQ = 1 << 1
    FREE_PAGE_HINT = 1 << 3
    REPORTING = 1 << 5
    VERSION_1 = 1 << 32


class Transport:
    """The registers of a QEMU's balloon device.

    Parameters
    ----------
    process : QemuProcess

    Raises
    ------
    QemuError
        There is no balloon device; any method: it refuses what it is asked for.
    """

    def __init__(self, process: QemuProcess) -> None:
        self._process = process
        self._qtest = process.qtest
        self._base = self._find()

    @property
    def notify_gpa(self) -> int:
        """Where a queue's number is written to kick it."""
        return self._base + _QUEUE_NOTIFY

    def _find(self) -> int:
        for base in range(TRANSPORTS, TRANSPORTS + N_TRANSPORTS * TRANSPORT_BYTES, TRANSPORT_BYTES):
            if (
                self._qtest.readl(base) == MAGIC
                and self._qtest.readl(base + _DEVICE_ID) == BALLOON_ID
            ):
                return base
        raise QemuError("QEMU has no balloon device on its virtio-mmio transports")

    def offered(self) -> Feature:
        """Read what the device offers."""
        words = []
        for page in range(2):
            self._write(_DEVICE_FEATURES_SEL, page)
            words.append(self._qtest.readl(self._base + _DEVICE_FEATURES))
        return Feature(words[0] | words[1] << 32)

    def accept(self, features: Feature) -> None:
        """Reset the device and settle on features."""
        self._write(_STATUS, 0)
        self._add_status(ACKNOWLEDGE)
        self._add_status(DRIVER)
        for page in range(2):
            self._write(_DRIVER_FEATURES_SEL, page)
            self._write(_DRIVER_FEATURES, features >> 32 * page & 0xFFFFFFFF)
        self._add_status(FEATURES_OK)

    def begin(self) -> None:
        """Let the device serve the queues that it was given."""
        self._add_status(DRIVER_OK)

    def set_up(self, index: int, start: int) -> vring.Ring:
        """Give a queue the part of the driver's memory from byte `start` on; its ring."""
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
        self._write(_STATUS, self._qtest.readl(self._base + _STATUS) | bit)
        status = self._qtest.readl(self._base + _STATUS)
        if not status & bit or status & NEEDS_RESET:
            raise QemuError(f"QEMU's balloon device refuses the driver: status {status:#x}")
