"""The driver: its page list, in both directions, its bitmaps, negotiation, migration."""

import gc
import os
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import wire
from balloonlab.address_map import zones
from balloonlab.guest import OFFERED
from balloonlab.host import GuestRam, Policy
from balloonlab.kernels import device, doorbell, vring
from balloonlab.kernels.windows import split_by_window
from balloonlab.measurement.machine import machine
from balloonlab.pages import Buddy
from balloonlab.queue import LocalTransport, Worker
from balloonlab.wire import Feature

from . import naive
from .strategies import BITMAP, DIVERSE, FAITHFUL

N_PAGES = 1500
GIB = BITMAP  # in pages


@contextmanager
def running(protocol, buddy=None, ram=None, **settings):
    """A guest of 1500 touched pages with its driver, and a device on both queues."""
    if ram is None:
        ram = GuestRam(N_PAGES)
        ram.touch()
    buddy = buddy or Buddy.idle(ram.memory_pages)
    with machine(ram, buddy, protocol, operations=8, **settings) as both:
        yield ram, both.driver, both.devices


def blocks_of(buddy):
    starts = np.flatnonzero(buddy.blocks.order >= 0)
    return {(int(buddy.blocks.order[pfn]), int(pfn)) for pfn in starts}


@pytest.mark.parametrize("protocol", FAITHFUL)
@given(targets=st.lists(st.integers(0, N_PAGES), min_size=1, max_size=6))
def test_the_balloon_follows_any_targets_in_a_row(protocol, targets):
    buddy, twin, held = Buddy.idle(N_PAGES), naive.Buddy(zones(N_PAGES)), []
    with running(protocol, buddy) as (ram, driver, devices):
        gone = set()
        for target in targets:
            done = driver.set_target(target)
            if target >= len(held):
                inflating = [twin.take(0) for _ in range(target - len(held))]
                held += inflating
                gone |= set(inflating)
                assert done.pages.tolist() == inflating
            else:
                leaving = [held.pop() for _ in range(len(held) - target)]
                for page in leaving:
                    twin.give(page, 0)
                assert done.pages.tolist() == leaving
            assert driver.pages.tolist() == held
            assert blocks_of(buddy) == twin.blocks()
            assert set(np.flatnonzero(~ram.resident()).tolist()) == gone
        assert [device.faults() for device in devices.values()] == [{}, {}]


@pytest.mark.parametrize("protocol", DIVERSE)
@pytest.mark.parametrize("discard", ["page", "range"])
def test_each_direction_tells_its_queue_the_pages_and_nothing_twice(protocol, discard):
    pages = np.random.default_rng(3).permutation(N_PAGES)[:700]
    buddy = Buddy.holding(N_PAGES, pages)
    with running(protocol, buddy, policy=Policy(discard)) as (_, driver, devices):
        inflated = driver.inflate(600)
        assert inflated.pages.tolist() == pages[:600].tolist()
        deflated = driver.deflate(450)
        assert deflated.pages.tolist() == pages[150:600][::-1].tolist()
        for done, device in zip((inflated, deflated), devices.values(), strict=True):
            stream = wire.encode(done.pages, protocol)
            assert done.n_kicks == len(stream)
            assert done.wire_bytes == sum(len(buffer) for buffer in stream)
            assert done.n_records >= done.n_kicks
            assert device.faults() == {}
            if discard == "page":
                assert device.n_discards == done.pages.size
        assert sorted(driver.pages.tolist()) == sorted(pages[:150].tolist())


@pytest.mark.parametrize("protocol", DIVERSE)
def test_deflated_pages_are_the_guests_again_and_read_zero(protocol):
    with running(protocol) as (ram, driver, _):
        inside = driver.inflate(1000).pages
        driver.deflate(1000)
        words = ram.memory.ram[: N_PAGES * 4096].view(np.uint64).reshape(N_PAGES, -1)
        ballooned = np.zeros(N_PAGES, bool)
        ballooned[inside] = True
        assert not words[ballooned].any()
        assert ram.count_lost(ballooned) == 0
        words[ballooned, 0] = 7
        assert (words[ballooned, 0] == 7).all()


@pytest.mark.parametrize("protocol", DIVERSE)
def test_refusals_change_nothing(protocol):
    with running(protocol) as (_, driver, _):
        driver.inflate(10)
        for call, words in (
            (lambda: driver.deflate(11), "0 to 10, the pages in the balloon, got 11"),
            (lambda: driver.deflate(-1), "got -1"),
            (lambda: driver.inflate(N_PAGES), "0 to 1490, the guest's other pages"),
            (lambda: driver.set_target(-5), "0 to 1500, the guest's pages, got -5"),
            (lambda: driver.set_target(10**7), "got 10000000"),
            (lambda: driver.migrate(700), "a page in the balloon, got 700"),
            (lambda: driver.migrate(-1), "a page in the balloon, got -1"),
            (lambda: driver.migrate(2**65), "a page in the balloon, got 368"),
        ):
            with pytest.raises(ValueError, match=words):
                call()
        with pytest.raises(TypeError, match="integer"):
            driver.inflate(2.5)
        assert driver.set_target(10).pages.size == 0
        assert driver.pages.size == 10


@pytest.mark.parametrize("protocol", DIVERSE)
def test_a_guest_that_runs_dry_keeps_what_it_got(protocol):
    with running(protocol, Buddy.holding(N_PAGES, np.arange(300))) as (ram, driver, _):
        with pytest.raises(RuntimeError, match="after 300 of 400 pages"):
            driver.inflate(400)
        assert driver.pages.tolist() == list(range(300))
        assert np.flatnonzero(~ram.resident()).tolist() == list(range(300))
        with pytest.raises(RuntimeError, match="no page to migrate 7 to"):
            driver.migrate(7)
        driver.set_target(0)
        assert driver.pages.size == 0


@pytest.mark.parametrize("kick_pages", [64, 100, 1024, 65_536])
def test_pages_are_the_same_whatever_a_kick_takes(kick_pages):
    buddy = Buddy.idle(N_PAGES)
    with running("pfn", buddy, kick_pages=kick_pages) as (ram, driver, devices):
        for target in (1300, 900, 1100, 0):
            done = driver.set_target(target)
            assert done.n_kicks == -(-done.pages.size // kick_pages)
            assert np.unique(driver.pages).size == target
            assert [device.faults() for device in devices.values()] == [{}, {}]
        assert (~ram.resident()).sum() == 1300
        assert blocks_of(buddy) == blocks_of(Buddy.idle(N_PAGES))


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
def test_the_device_has_two_queues_with_one_job_each(operation):
    with running("pfn") as (ram, driver, devices):
        driver.inflate(20)
        resident = ram.resident().sum()
        if operation == "deflate":
            driver.deflate(5)
            assert ram.resident().sum() == resident
        assert devices["inflate"].n_discards == 20
        assert devices["deflate"].n_discards == (5 if operation == "deflate" else 0)


@pytest.mark.parametrize("offered", [OFFERED, OFFERED & ~Feature.PAGE_BITMAP, Feature(0)])
@pytest.mark.parametrize("protocol", DIVERSE)
def test_records_are_used_where_both_ends_know_them(protocol, offered):
    with running(protocol, offered=offered) as (ram, driver, devices):
        spoken = protocol if offered & wire.get(protocol).feature else "pfn"
        assert driver.features in offered
        assert Feature.STATS_VQ not in driver.features
        done = driver.inflate(900)
        assert driver.negotiated_protocol == done.negotiated_protocol == spoken
        assert done.wire_bytes == sum(map(len, wire.encode(done.pages, spoken)))
        assert devices["inflate"].faults() == {}
        assert (~ram.resident()).sum() == 900


def test_without_a_single_bitmap_the_feature_is_not_accepted():
    with running("bitmap-v4", bitmaps=0) as (ram, driver, devices):
        assert Feature.PAGE_BITMAP not in driver.features
        done = driver.inflate(900)
        assert (done.negotiated_protocol, done.n_bitmaps, done.n_kicks) == ("pfn", 0, 4)
        assert (~ram.resident()).sum() == 900
        driver.set_target(100)
        assert [device.faults() for device in devices.values()] == [{}, {}]


def test_as_posted_the_feature_is_accepted_and_then_not_kept():
    with running("bitmap-v4-posted", bitmaps=0) as (ram, driver, devices):
        assert Feature.PAGE_BITMAP in driver.features
        assert driver.inflate(900).negotiated_protocol == "pfn"
        assert sum(devices["inflate"].faults().values()) == 4
        assert [message for message, _, _ in devices["inflate"].fault_log()] == [1, 2, 3, 4]
        assert ram.resident().all()


@given(
    pages=st.lists(st.integers(100, 900), max_size=60),
    window=st.integers(1, 300),
)
def test_pages_are_split_by_window_as_the_twin_does(pages, window):
    n_windows = (900 - 100) // window + 1
    ends, out = np.zeros(n_windows, np.int64), np.zeros(len(pages), np.uint64)
    split_by_window(np.array(pages, np.uint64), 100, window, ends, out)
    parts = naive.split_by_window(pages, 100, window, n_windows)
    assert out.tolist() == [page for part in parts for page in part]
    assert ends.tolist() == np.cumsum([len(part) for part in parts]).tolist()


@pytest.fixture(scope="module")
def wide():
    """A guest of 6 GiB, untouched, and pages in all of its gigabytes, in no order."""
    ram = GuestRam(6 * GIB)
    pages = np.r_[0:3000:7, GIB - 70 : GIB + 70, 2 * GIB : 2 * GIB + 200, 4 * GIB + 64, 6 * GIB + 1]
    return ram, np.random.default_rng(1).permutation(pages)


@pytest.mark.parametrize("bitmaps", [1, 2, 3, 5, 32])
def test_bitmaps_are_had_on_demand_and_the_window_is_as_wide_as_they_are(wide, bitmaps):
    ram, pages = wide
    buddy = Buddy.holding(ram.memory_pages, pages)
    with running("bitmap-v4", buddy, ram, bitmaps=bitmaps) as (_, driver, devices):
        done = driver.inflate(pages.size)
        assert done.n_bitmaps == min(bitmaps, 7)  # page numbers up to 7 GiB
        stream = naive.encode_bitmap_v4(pages.tolist(), done.n_bitmaps)
        assert done.n_kicks == len(stream)
        assert done.wire_bytes == sum(map(len, stream))
        assert devices["inflate"].faults() == {}
        assert driver.deflate(pages.size).n_kicks == len(stream)
        assert devices["deflate"].faults() == {}


@given(granted=st.lists(st.integers(0, 32), min_size=2, max_size=4))
def test_memory_for_bitmaps_may_come_and_go(wide, granted):
    ram, pages = wide
    buddy = Buddy.holding(ram.memory_pages, pages)
    with running("bitmap-v4", buddy, ram) as (_, driver, devices):
        for step, bitmaps in enumerate(granted, 1):
            driver.bitmaps = bitmaps
            done = driver.inflate(pages.size * step // len(granted) - driver.pages.size)
            assert done.n_bitmaps == min(max(bitmaps, 1), 7)  # the first one is never given back
            assert done.negotiated_protocol == "bitmap-v4"
        assert driver.pages.tolist() == pages.tolist()
        assert devices["inflate"].faults() == {}
        balloon = devices["inflate"]._state.balloon
        assert np.unpackbits(balloon.view(np.uint8)).sum() == pages.size


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("gib", [33, 100])
def test_beyond_32_gib_each_page_is_told_once(gib):
    """A driver on page numbers alone: nothing of this memory is ever backed."""
    ram = GuestRam(gib * GIB)
    rng = np.random.default_rng(gib)
    pages = np.unique(rng.integers(4 * GIB, (gib + 1) * GIB, 20_000))
    pages = np.r_[rng.permutation(pages), 0, 3 * GIB - 1]
    buddy = Buddy.holding(gib * GIB, pages)
    with running("bitmap-v4", buddy, ram) as (_, driver, devices):
        done = driver.inflate(pages.size)
        stream = naive.encode_bitmap_v4(pages.tolist())
        assert (done.n_bitmaps, done.n_kicks) == (32, len(stream))
        assert done.wire_bytes == sum(map(len, stream))
        assert devices["inflate"].faults() == {}
        told = devices["inflate"]._state.balloon
        expected = np.zeros(told.size * 64, bool)
        expected[ram.page_index(pages.astype(np.uint64))] = True
        assert (told.view(np.uint8) == np.packbits(expected, bitorder="little")).all()


@pytest.mark.parametrize("protocol", FAITHFUL)
def test_migration_tells_the_new_page_then_the_old_one(protocol):
    with running(protocol, Buddy.holding(N_PAGES, np.arange(100, 110))) as (ram, driver, devices):
        driver.inflate(6)
        ram.memory.ram[102 * 4096] = 1  # what the guest does when the page is its own again
        done = driver.migrate(102)
        assert done.pages.tolist() == [106, 102]
        assert (done.n_kicks, done.n_records) == (2, 2)
        stream = wire.encode([106], protocol) + wire.encode([102], protocol)
        blocks = protocol in ("bitmap-v4", "bitmap-v4-wide")  # of order 0, shorter than a bitmap
        assert done.wire_bytes == (32 if blocks else sum(map(len, stream)))
        assert driver.pages.tolist() == [100, 101, 103, 104, 105, 106]
        assert np.flatnonzero(~ram.resident()).tolist() == [100, 101, 103, 104, 105, 106]
        assert driver.inflate(1).pages.tolist() == [102]  # freed last, taken first
        assert [device.faults() for device in devices.values()] == [{}, {}]


@pytest.mark.parametrize("protocol", DIVERSE)
def test_pages_that_the_host_was_not_told_of_are_not_used_again(protocol):
    """MUST_TELL_HOST: the deflate queue is broken, so no page may leave the balloon."""
    buddy = Buddy.idle(N_PAGES)
    with running(protocol, buddy) as (_, driver, _):
        assert Feature.MUST_TELL_HOST in driver.features
        driver.inflate(700)
        free = blocks_of(buddy)
        driver._transport.virtqueues["deflate"].break_down(1)
        with pytest.raises(RuntimeError, match="needs a reset"):
            driver.deflate(300)
        assert blocks_of(buddy) == free
        assert driver.pages.size == 700


def serve_until(name, after):
    """A device that gives up when one of its queues has had `after` messages."""

    def serve(queue, memory, state, log):
        used = 0
        while not queue.ring.control[vring.STOP]:
            os.eventfd_read(int(queue.doorbell.kick))
            if used == after and state.inflating == (name == "inflate"):
                return doorbell.mark_broken(queue, vring.BAD_FLAGS, log.cell)
            used += device.answer(queue, memory, state, used, log)
        return None

    return serve


@pytest.mark.parametrize("protocol", DIVERSE)
@pytest.mark.parametrize("queue", ["inflate", "deflate", "migrate"])
def test_a_device_that_breaks_half_way_leaves_the_books_in_order(monkeypatch, protocol, queue):
    """List, allocator and accounting agree, and nothing more is tried on a broken device."""
    breaks = "deflate" if queue == "migrate" else queue
    after = {"inflate": 2, "deflate": 1, "migrate": 0}[queue] if protocol == "pfn" else 0
    buddy = Buddy.idle(N_PAGES)
    monkeypatch.setattr(device, "serve", serve_until(breaks, after))
    with running(protocol, buddy) as (_, driver, _):
        operate = {
            "inflate": lambda: driver.inflate(1000),
            "deflate": lambda: driver.deflate(600),
            "migrate": lambda: driver.migrate(int(driver.pages[3])),
        }[queue]
        if queue != "inflate":
            driver.inflate(1000)
        with pytest.raises(RuntimeError, match="needs a reset"):
            operate()
        free = sum(count << order for order, count in enumerate(buddy.free_blocks()))
        held = driver.pages.tolist()
        assert len(set(held)) == len(held)
        assert len(held) + free == N_PAGES
        for call in (lambda: driver.inflate(1), lambda: driver.deflate(1)):
            with pytest.raises(RuntimeError, match="needs a reset"):
                call()
        assert driver.pages.tolist() == held


@pytest.mark.slow_interpreted
def test_a_guest_that_crashed_as_posted_stays_so():
    pages = np.arange(0, 2 * GIB, 2)
    ram = GuestRam(3 * GIB)
    buddy = Buddy.holding(ram.memory_pages, pages)
    with running("bitmap-v4-posted", buddy, ram) as (_, driver, _):
        with pytest.raises(wire.PostedDriverError) as first:
            driver.inflate(pages.size - 10)
        for call in (lambda: driver.inflate(1), lambda: driver.deflate(1)):
            with pytest.raises(wire.PostedDriverError) as again:
                call()
            assert str(again.value) == str(first.value)
        assert driver.pages.size == pages.size - 10


def test_bitmaps_are_0_to_32():
    with pytest.raises(ValueError, match=r"0 to 32, .* got 33"), running("bitmap-v4", bitmaps=33):
        pass


def test_ram_of_a_guest_that_has_ended_is_gone_at_once():
    """A cycle through the device's thread kept gigabytes mapped until the collector came by."""
    gc.disable()
    try:
        ram = GuestRam(N_PAGES)
        with running("pfn", ram=ram) as parts:
            parts[1].inflate(10)
        mapped = weakref.ref(ram)
        del ram, parts
        assert mapped() is None
    finally:
        gc.enable()


def test_the_books_are_kept_when_ctrl_c_comes_twice(monkeypatch):
    """The first one interrupts the wait, the second one is passed on by the join."""

    def interrupted(self):
        raise KeyboardInterrupt

    def joined(self):
        self._done.wait(20)
        raise KeyboardInterrupt

    with running("pfn") as (_, driver, _):
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "wait", interrupted)
            patch.setattr(Worker, "join", joined)
            with pytest.raises(KeyboardInterrupt):
                driver.inflate(1000)
        taken = N_PAGES - sum(n << order for order, n in enumerate(driver._buddy.free_blocks()))
        assert driver.pages.size == taken


def test_a_rehearsal_is_one_message():
    words = "0 to 256, what one message takes, got 257"
    with running("pfn") as (_, driver, _), pytest.raises(ValueError, match=words):
        driver.rehearse("inflate", np.zeros(257, np.uint64), 1)


def test_a_transport_that_cannot_be_made_leaves_no_eventfd(monkeypatch):
    before, made = len(os.listdir("/proc/self/fd")), os.eventfd
    calls = iter(range(3))

    def short(initial):
        if next(calls, None) is None:
            raise OSError(24, "Too many open files")
        return made(initial)

    monkeypatch.setattr(os, "eventfd", short)
    with pytest.raises(OSError, match="Too many"):
        LocalTransport(np.zeros(1 << 20, np.uint8), 0, OFFERED, False)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
