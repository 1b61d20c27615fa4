"""Taking, sending and giving back the largest blocks that the allocator has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import wire
from balloonlab.address_map import ram_ranges, zones
from balloonlab.host import GuestRam
from balloonlab.kernels import device
from balloonlab.kernels.bitmap_v4 import RECORD_WORDS
from balloonlab.kernels.buddy import free_blocks
from balloonlab.kernels.chunks import take_largest
from balloonlab.measurement import setups
from balloonlab.measurement.machine import machine
from balloonlab.pages import Buddy, age
from balloonlab.wire import Feature

from . import naive
from .strategies import BITMAP
from .test_driver import N_PAGES, blocks_of, running, serve_until

GIB = BITMAP  # in pages


def blocks_in(heads):
    """Blocks (first page, order) of heads as they stand in a message."""
    words = [int(head) for head in heads]
    assert all(word >> 58 == 0 for word in words), "no bitmap"
    return [(word & (1 << 52) - 1, (word >> 52) - 12) for word in words]


def guests(memory_pages=N_PAGES):
    """An allocator with some pages held, and its twin: so many fragments as there may be."""

    @st.composite
    def draw_one(draw):
        buddy, twin = Buddy.idle(memory_pages), naive.Buddy(zones(memory_pages))
        taken = [twin.take(0) for _ in range(draw(st.integers(0, memory_pages)))]
        assert buddy.take(len(taken)).tolist() == taken
        step = draw(st.integers(1, 9))
        back = taken[:: -draw(st.integers(1, 9))] if draw(st.booleans()) else taken[::step]
        free_blocks(buddy.blocks, 0, np.array(back, np.uint64))
        for page in back:
            twin.give(page, 0)
        return buddy, twin

    return draw_one()


@given(guest=guests(), n_pages=st.integers(0, N_PAGES + 5), room=st.sampled_from([1, 3, 2000]))
def test_the_largest_blocks_are_those_of_the_twin(guest, n_pages, room):
    buddy, twin = guest
    heads, area = np.zeros(room, np.uint64), np.zeros(room, np.uint64)
    n, n_taken = take_largest(buddy.blocks, n_pages, heads, area)
    expected = naive.take_largest(twin, n_pages, room)
    assert blocks_in(heads[:n]) == expected
    assert (area == heads).all()
    assert n_taken == sum(1 << order for _, order in expected) <= n_pages
    assert blocks_of(buddy) == twin.blocks()


@pytest.mark.slow_interpreted
@given(n_pages=st.integers(1, 5 * GIB), high=st.booleans())
def test_zones_are_taken_from_the_last_to_the_first(n_pages, high):
    buddy, twin = Buddy.idle(5 * GIB), naive.Buddy(zones(5 * GIB))
    if high:  # the last zone has small blocks only
        start = ram_ranges(5 * GIB)[-1].start
        buddy.take(2 * GIB)
        for _ in range(2 * GIB >> 10):
            twin.take(10)
        twin.give(start, 0)
        twin.give(start + 2, 1)
        free_blocks(buddy.blocks, 0, np.array([start, start + 2, start + 3], np.uint64))
    heads = np.zeros(5 << 8, np.uint64)
    n, _ = take_largest(buddy.blocks, n_pages, heads, heads.copy())
    assert blocks_in(heads[:n]) == naive.take_largest(twin, n_pages, heads.size)


@given(guest=guests(), targets=st.lists(st.integers(0, N_PAGES), min_size=1, max_size=6))
def test_the_balloon_follows_any_targets_in_a_row(guest, targets):
    buddy, twin = guest
    chunks, before = naive.Chunks(twin), blocks_of(buddy)
    n_free = len(naive.pages_of_blocks(before))
    with running("bitmap-v4", buddy, chunks=True) as (ram, driver, devices):
        gone = set()
        for target in [*targets, 0]:
            target = min(target, n_free)
            change = target - len(chunks.pages())
            done = driver.set_target(target)
            if change >= 0:
                moved = chunks.inflate(change)
                gone |= {pfn + i for pfn, order in moved for i in range(1 << order)}
                assert set(done.pages.tolist()) <= gone
            else:
                moved = chunks.deflate(-change)
            assert done.pages.size == abs(change)
            sent = chunks.records(moved)
            assert (done.n_kicks, done.wire_bytes) == (len(sent), sum(map(len, sent)))
            assert done.n_records == len(moved)
            assert driver.pages.tolist() == chunks.pages()
            assert blocks_of(buddy) == twin.blocks()
            assert set(np.flatnonzero(~ram.resident()).tolist()) == gone
        assert blocks_of(buddy) == before
        assert [device.faults() for device in devices.values()] == [{}, {}]


def test_pages_of_an_operation_are_in_the_order_in_which_they_moved():
    with running("bitmap-v4", chunks=True) as (_, driver, _):
        up = driver.inflate(1201).pages
        assert driver.pages.tolist() == up.tolist()
        down = driver.deflate(517).pages
        assert down.tolist() == up[::-1][:517].tolist()
        assert driver.pages.tolist() == up[: 1201 - 517].tolist()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_more_blocks_than_a_message_takes_make_several(step):
    pages = np.arange(0, 30_000, step)[::-1][:9000]
    ram, buddy = GuestRam(30_000), Buddy.holding(30_000, pages)
    with running("bitmap-v4", buddy, ram, chunks=True) as (_, driver, devices):
        for done in (driver.inflate(9000), driver.deflate(9000)):
            assert (done.n_kicks, done.n_records) == (-(-9000 // RECORD_WORDS), 9000)
        assert [device.faults() for device in devices.values()] == [{}, {}]
        assert driver.pages.size == 0


def test_a_message_is_what_any_decoder_takes():
    blocks = [(1 << 20, 10), (64, 6), (3, 0)]
    (buffer,) = naive.Chunks(None).records(blocks)
    assert naive.decode_bitmap_v4(buffer) == [(pfn, 1 << order) for pfn, order in blocks]
    found = wire.decode([buffer], "bitmap-v4")
    assert found.tolist() == [(pfn, 1 << order) for pfn, order in blocks]


def test_a_guest_that_runs_dry_keeps_what_it_got():
    with running("bitmap-v4", Buddy.joining(N_PAGES, np.arange(300)), chunks=True) as parts:
        ram, driver, _ = parts
        with pytest.raises(RuntimeError, match="after 300 of 400 pages"):
            driver.inflate(400)
        assert sorted(driver.pages.tolist()) == list(range(300))
        assert np.flatnonzero(~ram.resident()).tolist() == list(range(300))
        with pytest.raises(RuntimeError, match="no page to migrate 7 to"):
            driver.migrate(7)
        assert sorted(driver.pages.tolist()) == list(range(300))
        driver.set_target(0)


@given(page=st.integers(0, 1199))
def test_migration_splits_the_block_around_a_page(page):
    buddy = Buddy.idle(N_PAGES)
    with running("bitmap-v4", buddy, chunks=True) as (ram, driver, devices):
        inside = driver.inflate(1200).pages.tolist()
        old = inside[page]
        new, left = driver.migrate(old).pages.tolist()
        assert left == old
        assert new not in inside
        assert driver.pages.tolist() == [p for p in inside if p != old] + [new]
        assert not ram.resident()[driver.pages].any()
        driver.deflate(1200)
        assert blocks_of(buddy) == blocks_of(Buddy.idle(N_PAGES))
        assert [device.faults() for device in devices.values()] == [{}, {}]


def test_refusals_change_nothing():
    with running("bitmap-v4", chunks=True) as (_, driver, _):
        driver.inflate(10)
        for call, words in (
            (lambda: driver.deflate(11), "0 to 10, the pages in the balloon, got 11"),
            (lambda: driver.inflate(N_PAGES), "0 to 1490, the guest's other pages"),
            (lambda: driver.migrate(700), "a page in the balloon, got 700"),
            (lambda: driver.migrate(2**65), "a page in the balloon, got 368"),
        ):
            with pytest.raises(ValueError, match=words):
                call()
        assert driver.set_target(10).pages.size == 0
        assert driver.pages.size == 10


@pytest.mark.parametrize("queue", ["inflate", "deflate", "migrate"])
def test_a_device_that_breaks_half_way_leaves_the_books_in_order(monkeypatch, queue):
    pages = np.arange(0, 20_000, 2)
    ram, buddy = GuestRam(20_000), Buddy.holding(20_000, pages)
    breaks = "deflate" if queue == "migrate" else queue
    monkeypatch.setattr(device, "serve", serve_until(breaks, 0 if queue == "migrate" else 1))
    with running("bitmap-v4", buddy, ram, chunks=True) as (_, driver, _):
        operate = {
            "inflate": lambda: driver.inflate(9000),
            "deflate": lambda: driver.deflate(9000),
            "migrate": lambda: driver.migrate(int(driver.pages[3])),
        }[queue]
        if queue != "inflate":
            driver.inflate(9500)
        with pytest.raises(RuntimeError, match="needs a reset"):
            operate()
        held = driver.pages.tolist()
        free = naive.pages_of_blocks(blocks_of(buddy))
        assert sorted(held + free) == pages.tolist()
        assert len(held) == {"inflate": 2 * RECORD_WORDS, "deflate": 9500 - RECORD_WORDS}.get(
            queue, 9501
        )
        with pytest.raises(RuntimeError, match="needs a reset"):
            driver.inflate(1)
        assert driver.pages.tolist() == held


def test_a_host_without_records_is_sent_single_pages():
    offered = Feature.MUST_TELL_HOST
    with running("bitmap-v4", chunks=True, offered=offered) as (_, driver, _):
        done = driver.inflate(700)
        assert (done.negotiated_protocol, done.n_records) == ("pfn", 700)


def test_no_bitmap_is_needed():
    with running("bitmap-v4", chunks=True, bitmaps=0) as (_, driver, _):
        done = driver.inflate(700)
        assert (done.negotiated_protocol, done.n_bitmaps) == ("bitmap-v4", 0)


def test_the_list_is_as_long_as_there_are_blocks():
    with machine(GuestRam(GIB), Buddy.idle(GIB), "bitmap-v4", chunks=True) as both:
        both.driver.inflate(GIB - 1)
        assert both.driver._balloon._list.size < 300


# As an option of a case


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
@pytest.mark.parametrize(
    "options",
    [
        {"pattern": "idle"}, {"pattern": "aged", "balloon": "6MiB"},
        {"pattern": "random", "balloon": "3MiB"}, {"pattern": "every:8", "balloon": "1MiB"},
        {"pattern": "random", "order": "shuffled", "balloon": "3MiB"}, {"steps": 7},
        {"discard": "page"}, {"pattern": np.arange(5, 900)},
    ],
)  # fmt: skip
def test_any_pattern_in_chunks_has_the_same_pages(operation, options):
    run = bl.measure(
        memory="8MiB", allocation="chunk", operation=operation, repeats=1, progress=False,
        **options,
    )  # fmt: skip
    assert set(run.frame["allocation"]) == {"chunk"}
    assert (run.checks["balloon_pages"] == run.frame["n_pages"].iloc[0]).all()
    assert (run.checks["lost_pages"] == 0).all()


def test_a_pattern_is_free_in_blocks_unless_an_order_is_asked_for():
    def free(order):
        options = {"memory": "8MiB", "pattern": "huge", "balloon": "4MiB", "order": order}
        case = setups.make_case(allocation="chunk", **options).with_pages()
        assert case.pages_key != setups.make_case(**options).pages_key or order != "as is"
        return case.start.free_blocks()

    assert free("as is")[9:].sum() > 0
    assert free("ascending").tolist() == [1024, *[0] * 10]


def test_an_aged_guest_is_taken_from_the_largest_blocks_down():
    buddy = age("64MiB").buddy
    n = int(buddy.free_blocks() @ (1 << np.arange(11)))
    heads = np.zeros(n, np.uint64)
    n_blocks, n_pages = take_largest(buddy.blocks, n, heads, heads.copy())
    orders = [order for _, order in blocks_in(heads[:n_blocks])]
    assert orders == sorted(orders, reverse=True)
    assert n_pages == n
    assert buddy.free_blocks().sum() == 0


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "pfn"}, "'page' with protocol='pfn', got 'chunk': a PFN names a single page"),
        ({"protocol": "bitmap-v4-posted"}, "as posted, it takes single pages"),
        ({"protocol": "madvise"}, "one call over as many bytes"),
        ({"guest": "linux"}, "Linux's driver takes single pages"),
        ({"host": "qemu"}, "a PFN names a single page"),
        ({"bitmaps": 3}, "bitmaps must be 32 with allocation='chunk', got 3: blocks need no"),
    ],
)
def test_where_there_are_no_chunks_the_reason_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        setups.check_rules(setups.make_case(allocation="chunk", **options))
