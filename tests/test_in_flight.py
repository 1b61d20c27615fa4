"""Several messages on a queue: told once, used in any order, nothing released too early."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import wire
from balloonlab.address_map import DRIVER_GPA
from balloonlab.guest import BalloonDriver
from balloonlab.host import GuestRam, Policy
from balloonlab.kernels import clock, doorbell, vring
from balloonlab.measurement.machine import machine
from balloonlab.pages import Buddy
from balloonlab.queue import LocalTransport
from balloonlab.wire import Feature

from .conftest import INTERPRETED
from .kvm import MARKS, needs_kvm

N_PAGES = 2000


@settings(max_examples=5 if INTERPRETED else 25)
@given(
    protocol=st.sampled_from(["pfn", "bitmap-v4", "chunk"]),
    in_flight=st.sampled_from([1, 2, 3, 32]),
    busy=st.booleans(),
    targets=st.lists(st.integers(0, N_PAGES), min_size=1, max_size=4),
)
def test_each_target_is_reached_page_by_page_once(protocol, in_flight, busy, targets):
    ram, chunks = GuestRam(N_PAGES), protocol == "chunk"
    pages = np.random.default_rng(0).permutation(N_PAGES)
    buddy = Buddy.joining(N_PAGES, pages) if chunks else Buddy.holding(N_PAGES, pages)
    name = "bitmap-v4" if chunks else protocol
    with machine(
        ram, buddy, name, Policy("page"), "busy" if busy else "block", operations=9,
        chunks=chunks, kick_pages=64 if name == "pfn" else 256, in_flight=in_flight,
    ) as both:  # fmt: skip
        held = set()
        for target in targets:
            done = both.driver.set_target(target)
            moved = set(done.pages.tolist())
            assert len(moved) == done.pages.size == abs(target - len(held))
            held ^= moved
            assert set(both.driver.pages.tolist()) == held
            assert len(held) == target
        both.driver.set_target(0)
        assert [device.faults() for device in both.devices.values()] == [{}, {}]
        counts = [device.n_discards for device in both.devices.values()]
        assert counts[0] == counts[1]  # what came in has left
    assert buddy.free_blocks() @ (1 << np.arange(11)) == N_PAGES


class SlowDevice:
    """A device that the test plays: it uses messages when, and in the order that, it is told to."""

    def __init__(self, in_flight, protocol="pfn"):
        self.ram = GuestRam(N_PAGES)
        self.transport = LocalTransport(
            self.ram.driver_memory(), DRIVER_GPA, Feature.MUST_TELL_HOST, False
        )
        self.buddy = Buddy.holding(N_PAGES, np.arange(N_PAGES))
        self.driver = BalloonDriver(
            self.transport, self.buddy, wire.get(protocol, 64), 999, in_flight=in_flight
        )
        self.used = dict.fromkeys(("inflate", "deflate"), 0)

    def free_pages(self):
        return int(self.buddy.free_blocks() @ (1 << np.arange(11)))

    def start(self, target):
        """Set a target in a thread; return it and what it returned or raised."""
        found = []

        def run():
            try:
                found.append(self.driver.set_target(target))
            except RuntimeError as error:
                found.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread, found

    def offered(self, name, n):
        """Wait until so many messages are on a queue; return the heads of those not used."""
        queue = self.transport.virtqueues[name]
        cell = np.zeros(2, np.int64)
        while int(queue.ring.avail[vring.INDEX]) < n:
            doorbell.wait_for_kick(queue.ends.doorbell, 100, cell)
        entries = queue.ring.avail[vring.ENTRIES :]
        return [int(entries[i % len(queue.ring.desc)]) for i in range(self.used[name], n)]

    def use(self, name, head):
        queue = self.transport.virtqueues[name]
        vring.push_used(queue.ring, head, self.used[name])
        self.used[name] += 1
        doorbell.call(queue.ends.doorbell, queue.ring, np.zeros(2, np.int64))


@pytest.fixture
def slow():
    made = []

    def make(*arguments):
        made.append(SlowDevice(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.transport.__exit__()


def test_the_driver_goes_on_until_all_its_buffers_are_in_use(slow):
    device = slow(3)
    thread, found = device.start(64 * 5)
    heads = device.offered("inflate", 3)
    assert len(set(heads)) == 3
    assert int(device.transport.virtqueues["inflate"].ring.avail[vring.INDEX]) == 3
    device.use("inflate", heads[1])  # out of order: the first buffer is still in use
    thread.join(0.05)
    assert int(device.transport.virtqueues["inflate"].ring.avail[vring.INDEX]) == 3
    device.use("inflate", heads[0])
    later = device.offered("inflate", 5)
    for head in (heads[2], *[one for one in later if one != heads[2]][-2:]):
        device.use("inflate", head)
    thread.join(5)
    assert found[0].n_kicks == 5
    assert found[0].pages.size == 320


def test_no_page_is_released_before_the_device_has_used_its_message(slow):
    device = slow(4)
    thread, _ = device.start(256)
    for head in device.offered("inflate", 4):
        device.use("inflate", head)
    thread.join(5)
    before = device.free_pages()
    thread, found = device.start(0)
    heads = device.offered("deflate", 4)
    assert device.free_pages() == before
    device.use("deflate", heads[2])
    device.use("deflate", heads[1])
    thread.join(0.05)
    assert device.free_pages() == before  # none of which an earlier one is in flight
    device.use("deflate", heads[0])
    device.use("deflate", heads[3])
    thread.join(5)
    assert device.free_pages() == N_PAGES
    assert found[0].pages.size == 256


@pytest.mark.parametrize("head", [1, 8, 126])
def test_an_answer_to_no_message_of_its_breaks_the_queue(slow, head):
    device = slow(4)
    thread, found = device.start(256)
    device.offered("inflate", 4)
    device.use("inflate", head)
    thread.join(5)
    assert isinstance(found[0], RuntimeError)
    with pytest.raises(RuntimeError):
        device.driver.set_target(0)


def test_an_answer_that_comes_twice_breaks_the_queue(slow):
    device = slow(2)
    thread, found = device.start(256)
    first, second = device.offered("inflate", 2)
    device.use("inflate", second)
    device.use("inflate", second)
    thread.join(5)
    assert isinstance(found[0], RuntimeError)
    assert first != second


@pytest.mark.parametrize("guest", ["thread", pytest.param("kvm", marks=MARKS)])
def test_stages_sum_to_the_wall_time_and_waits_are_apart(guest):
    case = {"memory": "16MiB", "protocol": "pfn", "guest": guest, "repeats": 2}
    for in_flight in (1, 4):
        run = bl.measure(**case, in_flight=in_flight, progress=False)
        assert (run.frame["in_flight"] == in_flight).all()
        times = run.frame.groupby("repeat")["time_ns"].sum()
        assert times.tolist() == run.checks["wall_ns"].tolist()
        assert (run.frame["time_ns"] >= 0).all()
        assert (run.frame["n_kicks"] == 14).all()


def test_a_timeline_has_kicks_and_waits_where_several_messages_are_in_flight():
    frame = bl.timeline(memory="8MiB", protocol="pfn", in_flight=4)
    assert bl.figures.timeline(frame).get_xlabel().endswith("(lab)")
    stages = set(frame["stage"])
    assert {"kick", "wait"} <= stages
    assert "round trip" not in stages
    assert clock.KICK != clock.WAIT


@needs_kvm
def test_a_timeline_of_a_virtual_machine():
    frame = bl.timeline(memory="8MiB", protocol="pfn", guest="kvm")
    assert frame.attrs["source"] == "kvm"
    assert (frame["end_ns"] >= frame["begin_ns"]).all()
    assert bl.figures.timeline(frame).get_xlabel().endswith("(kvm)")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_flight": 33}, "in_flight must be a whole number from 1 to 32, got 33"),
        ({"in_flight": 2, "protocol": "bitmap-v4-posted"}, "in_flight must be 1 with"),
        ({"in_flight": 2, "host": "qemu"}, "in_flight must be 1 with host='qemu'"),
        ({"in_flight": 2, "guest": "linux"}, "in_flight must be 1 with guest='linux'"),
        ({"in_flight": 2, "protocol": "madvise"}, "in_flight must be 1 with protocol='madvise'"),
    ],
)
def test_who_cannot_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        bl.measure(memory="512MiB", repeats=1, **options)
