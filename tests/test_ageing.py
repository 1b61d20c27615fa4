"""A guest that ages: its allocator stays sound, and its memory falls to pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import patterns
from balloonlab.address_map import zones
from balloonlab.kernels import buddy as kernels
from balloonlab.kernels import workload
from balloonlab.kernels.buddy import NONE
from balloonlab.pages import Buddy, age, metrics
from balloonlab.sizes import parse_pages

from . import naive

GUESTS = ["4KiB", "20KiB", "4MiB", "15MiB", "17MiB"]


def free_blocks(buddy):
    """The free blocks as a set of (order, first page), as the block heads have them."""
    starts = np.flatnonzero(buddy.blocks.order >= 0)
    return {(int(buddy.blocks.order[pfn]), int(pfn)) for pfn in starts}


def listed_blocks(buddy):
    """The same, as walking the free lists finds them."""
    found = []
    for heads in buddy.blocks.heads:
        for order, pfn in enumerate(heads.tolist()):
            while pfn != NONE:
                found.append((order, pfn))
                pfn = int(buddy.blocks.next[pfn])
    return found


def check_sound(guest, memory_pages):
    """Each page is in one free block or held; blocks are aligned and joined; lists agree."""
    free = free_blocks(guest.buddy)
    held = [(order, pfn) for pfn, order in guest.held.tolist()]
    ram = [pfn for start, end in zones(memory_pages) for pfn in range(start, end)]
    assert naive.pages_of_blocks([*free, *held]) == ram
    assert naive.free_space_is_sound(zones(memory_pages), free)
    assert all(pfn % (1 << order) == 0 for order, pfn in held)
    assert sorted(listed_blocks(guest.buddy)) == sorted(free)


@given(
    n_pages=st.sampled_from([1, 7, 300, 1024, 5000]),
    events=st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 10)), max_size=60),
)
def test_work_does_what_its_twin_does(n_pages, events):
    buddy, held = Buddy.idle(n_pages), np.full(10, NONE, np.int64)
    twin, twin_held = naive.Buddy(zones(n_pages)), {}
    slots = np.array([slot for slot, _ in events], np.int32)
    orders = np.array([order for _, order in events], np.int8)
    workload.work(buddy.blocks, held, slots, orders, np.zeros(1, np.uint64))
    naive.work(twin, twin_held, slots.tolist(), orders.tolist())
    blocks = {
        slot: (block >> workload.ORDER_BITS, block & workload.ORDER_MASK)
        for slot, block in enumerate(held.tolist())
        if block != NONE
    }
    assert blocks == twin_held
    assert free_blocks(buddy) == twin.blocks()


@pytest.mark.parametrize("memory", GUESTS)
@pytest.mark.parametrize("turnover", [0, 2])
def test_an_aged_allocator_is_sound(memory, turnover):
    check_sound(age(memory, 1, turnover=turnover), parse_pages(memory))


@given(
    n_pages=st.integers(1, 6000),
    seed=st.integers(0, 99),
    held=st.floats(0, 0.99),
    unmovable=st.floats(0, 1),
    turnover=st.integers(0, 2),
)
def test_any_workload_leaves_a_sound_allocator(n_pages, seed, held, unmovable, turnover):
    guest = age(n_pages * 4096, seed, held=held, unmovable=held * unmovable, turnover=turnover)
    check_sound(guest, n_pages)
    assert (1 << guest.held[:, 1]).sum() <= held * n_pages


@pytest.mark.slow_interpreted
def test_an_aged_guest_with_a_hole_is_sound():
    memory_pages = parse_pages("3200MiB")
    guest = age("3200MiB")
    n_held = (1 << guest.held[:, 1]).sum()
    assert 0.1 * memory_pages - 1024 < n_held <= 0.1 * memory_pages
    state = np.zeros(guest.buddy.blocks.order.size, np.int8)
    for pfn, order in guest.held.tolist():
        state[pfn : pfn + (1 << order)] += 1
    for order, pfn in free_blocks(guest.buddy):
        state[pfn : pfn + (1 << order)] += 1
    for start, end in zones(memory_pages):
        assert (state[start:end] == 1).all()
    assert state.sum() == memory_pages
    assert naive.free_space_is_sound(zones(memory_pages), free_blocks(guest.buddy))
    assert guest.buddy.take(memory_pages).size == memory_pages - n_held


def test_the_same_seed_gives_the_same_guest():
    one, two, other = age("16MiB", 7), age("16MiB", np.random.default_rng(7)), age("16MiB", 8)
    assert np.array_equal(one.held, two.held)
    assert listed_blocks(one.buddy) == listed_blocks(two.buddy)
    assert not np.array_equal(one.held, other.held)


def test_a_balloon_gets_the_allocators_pages_in_its_order():
    buddy = age("16MiB", 3).buddy
    assert np.array_equal(patterns.aged("16MiB", "14MiB", rng=3), buddy.take(3584))
    large = patterns.aged("16MiB", "12MiB", rng=3)
    assert np.array_equal(patterns.aged("16MiB", "4MiB", rng=3), large[:1024])


def test_freeing_all_that_is_held_gives_the_idle_guest_back():
    guest = age("17MiB")
    for pfn, order in guest.held.tolist():
        kernels.free_blocks(guest.buddy.blocks, order, np.array([pfn], np.uint64))
    idle = Buddy.idle(parse_pages("17MiB"))
    assert np.array_equal(guest.buddy.free_blocks(), idle.free_blocks())


@pytest.mark.slow_interpreted
def test_fragmentation_emerges_and_grows_with_the_work():
    """More work: more of the free memory in small blocks, fewer pages told in full words."""
    in_small_blocks, told_in_full = [], []
    for turnover in (0, 1, 4, 16):
        guest = age("1GiB", 5, turnover=turnover)
        in_small_blocks.append(metrics.free_blocks(guest.buddy)["unusable_index"][5])
        pages = guest.buddy.take(parse_pages("896MiB"))
        told_in_full.append(metrics.summary({"aged": pages})["pages_in_full_share"][0])
    assert in_small_blocks == sorted(in_small_blocks)
    assert told_in_full == sorted(told_in_full, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_an_aged_guest_is_more_fragmented_than_an_idle_one(seed):
    index = metrics.free_blocks(age("16MiB", seed).buddy)["unusable_index"]
    assert metrics.free_blocks(Buddy.idle(4096))["unusable_index"][9] == 0
    assert index[9] > 0.2


def test_unmovable_pages_are_there_at_the_end():
    """A guest that holds no more than its unmovable pages holds single pages all over."""
    guest = age("16MiB", held=0.02, unmovable=0.02)
    assert guest.held[:, 1].tolist() == [0] * 81
    assert np.ptp(guest.held[:, 0]) > 2048


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held": 1.0}, "held must be a share of RAM from 0 to below 1, got 1.0"),
        ({"held": -0.1}, "held must be a share"),
        ({"unmovable": float("nan")}, "unmovable must be a share"),
        ({"held": 0.01, "unmovable": 0.02}, "unmovable must not exceed held"),
        ({"turnover": -1}, "turnover must be a whole number of at least 0, got -1"),
        ({"turnover": 1.5}, "turnover must be a whole number"),
        ({"memory": 0}, "memory must be at least one 4 KiB page"),
    ],
)
def test_age_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        age(**{"memory": "1MiB"} | arguments)
    with pytest.raises(ValueError, match=message):
        patterns.aged(**{"memory": "1MiB", "balloon": "512KiB"} | arguments)


def test_a_balloon_must_fit_what_the_guest_leaves_free():
    with pytest.raises(ValueError, match=r"at most 14.4 MiB \(3687 pages\) .* held=0.0625"):
        patterns.aged("16MiB", "15MiB")
    assert patterns.aged("16MiB", 3687 * 4096).size == 3687
    assert patterns.aged("16MiB", "15MiB", held=0.0625).size == 3840
