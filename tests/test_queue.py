"""The virtqueue: layout, and a device that survives what a driver should not do."""

import struct
import threading

import numpy as np
import pytest

from balloonlab import wire
from balloonlab.address_map import DRIVER_GPA
from balloonlab.host import BalloonDevice, GuestRam, Policy
from balloonlab.host.device import no_balloon
from balloonlab.kernels import doorbell, vring
from balloonlab.queue import QUEUE_BYTES, QUEUE_SIZE, Virtqueue, Worker

from .kicks import kick_and_wait

BUFFER_AT = QUEUE_BYTES
CELL = np.zeros(2, np.int64)


def kick(queue):
    """Offer the chain at descriptor 0 and kick; True when the device used it."""
    vring.offer(queue.ring)
    return kick_and_wait(queue.ends, CELL) == doorbell.USED


class Rig:
    """A device on 64 pages of touched RAM, and a driver played by the test."""

    def __init__(self, protocol="pfn", discard="page"):
        self.ram = GuestRam(64)
        self.ram.touch()
        self.own = self.ram.driver_memory()
        self.queue = Virtqueue(self.own[:QUEUE_BYTES])
        balloon = no_balloon(self.ram.memory.ram.size)
        self.device = BalloonDevice(
            self.ram, self.queue, wire.get(protocol), Policy(discard), 1000, balloon
        )
        self.device.start()

    def send(self, data, chain=None):
        """Put one message on the queue; True when the device used it."""
        self.own[BUFFER_AT : BUFFER_AT + len(data)] = np.frombuffer(bytes(data), np.uint8)
        ring = self.queue.ring
        if chain is None:
            vring.describe(ring, 0, DRIVER_GPA + BUFFER_AT, len(data), 0)
        for i, entry in enumerate(chain or []):
            ring.desc[i] = entry
        return kick(self.queue)

    def gone(self):
        return np.flatnonzero(~self.ram.resident()).tolist()

    def close(self):
        self.device.stop()
        self.queue.close()


@pytest.fixture
def rig():
    rigs = []

    def make(*args):
        rigs.append(Rig(*args))
        return rigs[-1]

    yield make
    for made in rigs:
        made.close()


def test_the_queue_is_laid_out_as_the_specification_says(rig):
    r = rig()
    assert r.send(struct.pack("<I", 7))
    raw = r.own.tobytes()
    assert struct.unpack_from("<QIHH", raw, 0) == (DRIVER_GPA + BUFFER_AT, 4, 0, 0)
    available = 16 * QUEUE_SIZE
    assert struct.unpack_from("<HHH", raw, available) == (0, 1, 0)
    used = 4096
    assert struct.unpack_from("<HHII", raw, used) == (0, 1, 0, 0)
    assert r.gone() == [7]


@pytest.mark.slow_interpreted
def test_the_indices_wrap_around_at_65536(rig):
    r = rig()
    for _ in range(0x10000 + 5):
        assert kick(r.queue)  # the empty chain at descriptor 0
    assert r.queue.ring.used[vring.INDEX] == 5
    assert r.send(struct.pack("<I", 9))
    assert r.gone() == [9]


def test_three_hundred_messages_go_round_the_ring(rig):
    r = rig("bitmap-v4", "range")
    for page in range(300):
        (buffer,) = wire.encode([page % 64], "bitmap-v4")
        assert r.send(buffer)
    assert r.queue.ring.used[vring.INDEX] == 300
    assert r.gone() == list(range(64))


def test_a_chain_of_two_buffers_is_one_message(rig):
    r = rig("bitmap-v4", "range")
    (buffer,) = wire.encode([3, 4, 5, 20], "bitmap-v4")
    gpa = DRIVER_GPA + BUFFER_AT
    chain = [(gpa, 8, vring.DESC_NEXT, 1), (gpa + 8, len(buffer) - 8, 0, 0)]
    assert r.send(buffer, chain)
    assert r.gone() == [3, 4, 5, 20]
    assert r.device.n_discards == 2


def test_busy_wait_needs_no_call(rig):
    r = rig()
    r.queue.ring.avail[vring.FLAGS] = vring.NO_INTERRUPT
    for page in range(20):
        assert r.send(struct.pack("<I", page))
    assert r.gone() == list(range(20))


def test_bad_records_are_counted_and_the_rest_is_done(rig):
    r = rig()
    outside = [64, 0xFFFFFFFF, DRIVER_GPA >> 12]
    assert r.send(struct.pack("<5I", 1, *outside, 2) + b"\xff")
    assert r.gone() == [1, 2]
    counts = list(r.device.faults().values())
    assert counts == [1, 3]
    assert r.queue.broken is None


def test_no_byte_of_a_range_that_leaves_ram_is_discarded(rig):
    r = rig("bitmap-v4", "range")
    block = 60 | (12 + 3) << 52
    assert r.send(struct.pack("<QQ", 8 << 32, block))
    assert r.gone() == []
    assert sum(r.device.faults().values()) == 1


GPA = DRIVER_GPA + BUFFER_AT


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([(GPA, 4, vring.DESC_NEXT, 0)], vring.BAD_LOOP),
        ([(GPA, 4, vring.DESC_NEXT, QUEUE_SIZE)], vring.BAD_HEAD),
        ([(GPA, 4, vring.DESC_WRITE, 0)], vring.BAD_FLAGS),
        ([(GPA, 16, vring.DESC_INDIRECT, 0)], vring.BAD_FLAGS),
        ([(1 << 40, 4, 0, 0)], vring.BAD_ADDRESS),
        ([(2**64 - 1, 4, 0, 0)], vring.BAD_ADDRESS),
        ([(2**63, 4, 0, 0)], vring.BAD_ADDRESS),
        ([(GPA, 2**32 - 1, 0, 0)], vring.BAD_ADDRESS),
        ([(GPA, 4096, 0, 0)], vring.BAD_LENGTH),
    ],
)
def test_a_corrupt_queue_stops_the_device_with_a_clear_state(rig, chain, reason):
    r = rig()
    if chain[0][2] == vring.DESC_NEXT and chain[0][3] == 0:
        chain = [(GPA, 0, vring.DESC_NEXT, 0)]
    assert not r.send(b"", chain)
    assert r.queue.broken == vring.BROKEN_REASONS[reason]
    assert r.gone() == []


def test_an_index_that_ran_ahead_stops_the_device(rig):
    r = rig()
    r.queue.ring.avail[vring.INDEX] = QUEUE_SIZE
    assert not r.send(struct.pack("<I", 1))
    assert r.queue.broken == vring.BROKEN_REASONS[vring.BAD_INDEX]


def test_a_head_outside_the_queue_stops_the_device(rig):
    r = rig()
    ring = r.queue.ring
    ring.avail[vring.ENTRIES] = QUEUE_SIZE
    ring.avail[vring.INDEX] = 1
    r.queue.kick()
    r.device._worker.wait()
    assert r.queue.broken == vring.BROKEN_REASONS[vring.BAD_HEAD]


def test_queue_memory_has_a_fixed_size():
    with pytest.raises(ValueError, match="8192 bytes"):
        Virtqueue(np.zeros(100, np.uint8))


def test_an_interrupt_while_waiting_for_a_thread_is_passed_on_afterwards(monkeypatch):
    """A Ctrl-C that arrives while a device is being stopped must still end the run."""
    release = threading.Event()
    worker = Worker(lambda: release.wait(20), "balloon-test")
    worker.start()
    wait, presses = Worker.wait, []

    def interrupted(self):
        presses.append(1)
        if len(presses) < 3:
            raise KeyboardInterrupt
        release.set()
        wait(self)

    monkeypatch.setattr(Worker, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.join()
    assert len(presses) == 3
    assert worker.result() is True


def test_a_worker_that_never_started_is_not_waited_for():
    worker = Worker(lambda: 1, "balloon-test")
    worker.join()
    assert worker.result() is None
