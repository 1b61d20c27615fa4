"""The driver: its page list, in both directions, to any target, several times in a row."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import wire
from balloonlab.guest import QUEUES_AT, BalloonDriver
from balloonlab.host import BalloonDevice, GuestRam
from balloonlab.layout import zones
from balloonlab.pages import Buddy
from balloonlab.queue import QUEUE_BYTES, Virtqueue

from . import naive

N_PAGES = 1500
ROWS = 4000


@contextmanager
def machine(protocol, buddy=None, discard=None):
    """A guest of 1500 touched pages with its driver, and a device on both queues."""
    ram = GuestRam(N_PAGES)
    ram.touch()
    own = ram.driver_memory()
    wire_format = wire.get(protocol)
    with ExitStack() as stack:
        queues, devices = {}, []
        for operation, start in QUEUES_AT.items():
            queue = stack.enter_context(Virtqueue(own[start : start + QUEUE_BYTES]))
            apply = discard or wire_format.discard
            device = BalloonDevice(ram, queue, wire_format, apply, ROWS, operation)
            device.start()
            stack.callback(device.stop)
            queues[operation] = queue
            devices.append(device)
        driver = BalloonDriver(own, queues, buddy or Buddy.idle(N_PAGES), wire_format, ROWS)
        yield ram, driver, devices


def blocks_of(buddy):
    starts = np.flatnonzero(buddy.blocks.order >= 0)
    return {(int(buddy.blocks.order[pfn]), int(pfn)) for pfn in starts}


@pytest.mark.parametrize("protocol", wire.formats())
@given(targets=st.lists(st.integers(0, N_PAGES), min_size=1, max_size=6))
def test_the_balloon_follows_any_targets_in_a_row(protocol, targets):
    buddy, twin, held = Buddy.idle(N_PAGES), naive.Buddy(zones(N_PAGES)), []
    with machine(protocol, buddy) as (ram, driver, _):
        gone = set()
        for target in targets:
            done = driver.set_target(target)
            if target >= len(held):
                entering = [twin.take(0) for _ in range(target - len(held))]
                held += entering
                gone |= set(entering)
                assert done.pages.tolist() == entering
            else:
                leaving = [held.pop() for _ in range(len(held) - target)]
                for page in leaving:
                    twin.give(page, 0)
                assert done.pages.tolist() == leaving
            assert driver.pages.tolist() == held
            assert blocks_of(buddy) == twin.blocks()
            assert set(np.flatnonzero(~ram.resident()).tolist()) == gone


@pytest.mark.parametrize("protocol", wire.formats())
@pytest.mark.parametrize("discard", ["page", "range"])
def test_each_direction_tells_its_queue_the_pages_and_nothing_twice(protocol, discard):
    pages = np.random.default_rng(3).permutation(N_PAGES)[:700]
    with machine(protocol, Buddy.holding(N_PAGES, pages), discard) as (_, driver, devices):
        inflated = driver.inflate(600)
        assert inflated.pages.tolist() == pages[:600].tolist()
        deflated = driver.deflate(450)
        assert deflated.pages.tolist() == pages[150:600][::-1].tolist()
        for done, device in zip((inflated, deflated), devices, strict=True):
            stream = wire.encode(done.pages, protocol)
            assert done.n_kicks == len(stream)
            assert done.wire_bytes == sum(len(buffer) for buffer in stream)
            assert done.n_records >= done.n_kicks
            assert device.faults() == {}
            if discard == "page":
                assert device.n_discards == done.pages.size
        assert sorted(driver.pages.tolist()) == sorted(pages[:150].tolist())


@pytest.mark.parametrize("protocol", wire.formats())
def test_deflated_pages_are_the_guests_again_and_read_zero(protocol):
    with machine(protocol) as (ram, driver, _):
        inside = driver.inflate(1000).pages
        driver.deflate(1000)
        words = ram.memory.ram[: N_PAGES * 4096].view(np.uint64).reshape(N_PAGES, -1)
        ballooned = np.zeros(N_PAGES, bool)
        ballooned[inside] = True
        assert not words[ballooned].any()
        assert ram.count_lost(ballooned) == 0
        words[ballooned, 0] = 7
        assert (words[ballooned, 0] == 7).all()


@pytest.mark.parametrize("protocol", wire.formats())
def test_refusals_change_nothing(protocol):
    with machine(protocol) as (_, driver, _):
        driver.inflate(10)
        for call, words in (
            (lambda: driver.deflate(11), "0 to 10, the pages in the balloon, got 11"),
            (lambda: driver.deflate(-1), "got -1"),
            (lambda: driver.inflate(N_PAGES), "0 to 1490, the guest's other pages"),
            (lambda: driver.set_target(-5), "got 15"),
        ):
            with pytest.raises(ValueError, match=words):
                call()
        assert driver.set_target(10).pages.size == 0
        assert driver.pages.size == 10


@pytest.mark.parametrize("protocol", wire.formats())
def test_a_guest_that_runs_dry_keeps_what_it_got(protocol):
    with machine(protocol, Buddy.holding(N_PAGES, np.arange(300))) as (ram, driver, _):
        with pytest.raises(RuntimeError, match="after 300 of 400 pages"):
            driver.inflate(400)
        assert driver.pages.tolist() == list(range(300))
        assert np.flatnonzero(~ram.resident()).tolist() == list(range(300))
        driver.set_target(0)
        assert driver.pages.size == 0


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
def test_the_device_has_two_queues_with_one_job_each(operation):
    with machine("pfn") as (ram, driver, (inflating, deflating)):
        driver.inflate(20)
        resident = ram.resident().sum()
        if operation == "deflate":
            driver.deflate(5)
            assert ram.resident().sum() == resident
        assert inflating.n_discards == 20
        assert deflating.n_discards == (5 if operation == "deflate" else 0)
