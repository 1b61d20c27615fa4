"""Patterns, the allocator, and the guest's layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import patterns
from balloonlab.address_map import LOW_RAM_END, ram_ranges, zones
from balloonlab.kernels import buddy as kernels
from balloonlab.pages import Buddy
from balloonlab.sizes import format_size, parse_pages, parse_size

from . import naive

GUESTS = ["64KiB", "20KiB", "4MiB", "15MiB", "16MiB", "17MiB", "64MiB", "130004KiB"]


@pytest.mark.parametrize("memory", GUESTS)
def test_idle_is_what_the_allocator_of_an_idle_guest_hands_out(memory):
    n = parse_pages(memory)
    taken = Buddy.idle(n).take(n)
    assert taken.size == n
    for balloon in (1, n // 3, n - 1):
        assert np.array_equal(patterns.idle(memory, balloon * 4096), taken[:balloon])


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("memory", ["3GiB", "3076KiB", "4GiB", "8GiB", "8388620KiB"])
def test_idle_is_right_for_large_guests_too(memory):
    n = parse_pages(memory)
    pages = patterns.idle(memory, (n - 1) * 4096)
    assert np.array_equal(pages, Buddy.idle(n).take(n - 1))
    inside = np.concatenate([np.arange(*piece) for piece in ram_ranges(n)])
    assert np.isin(pages, inside).all()
    assert np.unique(pages).size == pages.size


def test_idle_of_8_gib_takes_the_high_zone_first_and_upwards():
    pages = patterns.idle("8GiB", "7GiB")
    assert pages.dtype == np.uint64
    assert pages.size == 1_835_008
    assert pages[0] == 1 << 20
    assert np.count_nonzero(np.diff(pages.astype(np.int64)) != 1) == 1


@given(memory=st.integers(2, 4000), share=st.floats(0, 0.99), seed=st.integers(0, 5))
def test_random_draws_distinct_pages_of_ram(memory, share, seed):
    balloon = int(memory * share)
    pages = patterns.random(memory * 4096, balloon * 4096, rng=seed)
    assert pages.size == balloon
    assert (np.diff(pages.astype(np.int64)) > 0).all()
    assert not balloon or pages.max() < memory
    again = patterns.random(memory * 4096, balloon * 4096, np.random.default_rng(seed))
    assert np.array_equal(pages, again)


@pytest.mark.slow_interpreted
def test_random_leaves_the_hole_alone():
    pages = patterns.random("5GiB", "2GiB", rng=1)
    hole = (pages >= LOW_RAM_END) & (pages < 1 << 20)
    assert not hole.any()
    assert pages.max() >= 1 << 20


def take_block(buddy, order):
    """Take a block of ``2**order`` pages; its first page, or None."""
    first = np.zeros(1, np.uint64)
    return int(first[0]) if kernels.take_blocks(buddy.blocks, order, first) else None


def free_block(buddy, pfn, order=0):
    kernels.free_blocks(buddy.blocks, order, np.array([pfn], np.uint64))


@given(
    n_pages=st.sampled_from([1, 7, 1024, 4095, 4096, 5000]),
    actions=st.lists(st.tuples(st.integers(0, 10), st.booleans(), st.integers(0, 99)), max_size=60),
)
def test_buddy_does_what_its_twin_does(n_pages, actions):
    buddy, twin, held = Buddy.idle(n_pages), naive.Buddy(zones(n_pages)), []
    for order, give, which in actions:
        if give and held:
            block = held.pop(which % len(held))
            free_block(buddy, *block)
            twin.give(*block)
        else:
            pfn = take_block(buddy, order)
            assert pfn == twin.take(order)
            if pfn is not None:
                held.append((pfn, order))
        starts = np.flatnonzero(buddy.blocks.order >= 0)
        blocks = {(int(buddy.blocks.order[pfn]), int(pfn)) for pfn in starts}
        assert blocks == twin.blocks()
        free = (buddy.free_blocks() << np.arange(11)).sum()
        assert free + sum(1 << order for _, order in held) == n_pages
    for block in held:
        free_block(buddy, *block)
    assert np.array_equal(buddy.free_blocks(), Buddy.idle(n_pages).free_blocks())


@given(
    n_pages=st.sampled_from([7, 300, 1024, 5000]),
    holes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=20),
    wanted=st.integers(0, 400),
)
def test_taking_in_batches_is_taking_one_by_one(n_pages, holes, wanted):
    """The same pages, the same order, the same free blocks, from any state."""
    buddy, twin, held = Buddy.idle(n_pages), naive.Buddy(zones(n_pages)), []
    for order, which in holes:
        held.append((twin.take(order), order))
        assert take_block(buddy, order) == held[-1][0]
        if which % 2 or held[-1][0] is None:
            block = held.pop(which % len(held))
            if block[0] is not None:
                twin.give(*block)
                free_block(buddy, *block)
    one_by_one = [pfn for _ in range(wanted) if (pfn := twin.take(0)) is not None]
    assert buddy.take(wanted).tolist() == one_by_one
    starts = np.flatnonzero(buddy.blocks.order >= 0)
    assert {(int(buddy.blocks.order[pfn]), int(pfn)) for pfn in starts} == twin.blocks()


@given(pages=st.lists(st.integers(0, 999), unique=True))
def test_an_allocator_holding_some_pages_hands_out_just_those_in_order(pages):
    buddy = Buddy.holding(1000, pages)
    assert buddy.take(1000).tolist() == pages
    for page in range(1000):
        free_block(buddy, page)
    assert np.array_equal(buddy.free_blocks(), Buddy.idle(1000).free_blocks())


def test_pages_freed_beside_held_ones_are_joined_and_lost_to_nobody():
    buddy = Buddy.holding(16384, [0, 2, 5000])
    free_block(buddy, 1)
    assert sorted(buddy.take(10).tolist()) == [0, 1, 2, 5000]


def test_buddy_refuses_pages_it_cannot_hold():
    with pytest.raises(ValueError, match="first is 1000"):
        Buddy.holding(1000, [1, 1000])
    with pytest.raises(ValueError, match="pattern must not repeat a page: of 1 pages 1 come"):
        Buddy.holding(1000, [1, 1], "pattern")
    with pytest.raises(ValueError, match="pattern must be the guest's RAM"):
        Buddy.joining(1000, [1000], "pattern")


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [(4096, 4096), ("8GiB", 8 << 30), (" 1.5 MiB ", 3 << 19), ("12", 12), (np.int64(7), 7)],
)
def test_parse_size(size, n_bytes):
    assert parse_size(size) == n_bytes


@pytest.mark.parametrize("size", ["8GB", "GiB", "-1", "1.00001KiB", "", "8 GiB 2", -4096])
def test_parse_size_refuses(size):
    with pytest.raises(ValueError, match="memory must"):
        parse_size(size, "memory")


@pytest.mark.parametrize("size", ["8GB", "8 gb", "8gib", "8g"])
def test_a_decimal_unit_is_answered_with_the_binary_one(size):
    with pytest.raises(ValueError, match="units are binary here: 8GiB"):
        parse_size(size)


@pytest.mark.parametrize("size", [1.5, None, True, b"8GiB"])
def test_parse_size_refuses_other_types(size):
    with pytest.raises(TypeError, match="memory must"):
        parse_size(size, "memory")


def test_sizes_are_whole_pages_and_leave_the_guest_something():
    with pytest.raises(ValueError, match="balloon must be a multiple of the 4 KiB page"):
        patterns.idle("8GiB", 4097)
    with pytest.raises(ValueError, match="balloon must be smaller than memory"):
        patterns.random("8GiB", "8GiB")
    with pytest.raises(ValueError, match="at least one 4 KiB page"):
        patterns.idle(0, 0)
    assert patterns.idle("8GiB", 0).size == 0
    assert format_size(7 << 30) == "7 GiB"
