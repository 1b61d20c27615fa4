"""Memory map, translation, discard: against the twin, on real memory."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import wire
from balloonlab.address_map import DRIVER_GPA
from balloonlab.host import GuestRam, Policy, ram
from balloonlab.host.backing import DONTNEED
from balloonlab.host.device import make_state
from balloonlab.kernels import faults
from balloonlab.kernels.discard import discard
from balloonlab.kernels.translate import Memory, resolve, translate
from balloonlab.sizes import HUGE_BYTES

from . import naive

# Four slots with a hole between each two neighbours but the first two; the third is no RAM.
SLOTS = np.array([(0, 40, 0, 1), (40, 8, 60, 1), (64, 16, 40, 0), (100, 4, 56, 1)], np.int64)


class Slots:
    """What translate needs of a memory map."""

    def __new__(cls):
        return Memory(np.zeros(1, np.uint8), 0, SLOTS)


def device(balloon, discard="range", inflating=True, capacity=9):
    """One queue of a device with room for some extents."""
    operation = "inflate" if inflating else "deflate"
    state = make_state(wire.get("bitmap-v4"), Policy(discard), operation, balloon)
    return state._replace(extents=np.zeros((capacity, 2), np.int64))


def translated(state, ranges, memory=None):
    """Every batch of extents of one message, as the device goes through it."""
    array, batches = np.array(ranges, np.int64).reshape(-1, 2), []
    for name in ("range", "done", "n_lookups", "last_repeating"):
        state.state[0][name] = 0
    while state.state[0]["range"] < len(array):
        n = translate(memory or Slots(), state, array)
        batches.append(state.extents[:n].tolist())
    return batches


def counts(state):
    return state.faults[0]["counts"]


@given(
    ranges=st.lists(st.tuples(st.integers(0, 110), st.integers(1, 30)), max_size=8),
    by_page=st.booleans(),
    inflating=st.booleans(),
    inside=st.one_of(st.just(set()), st.sets(st.integers(0, 79))),
    capacity=st.integers(1, 9),
)
def test_translate_does_what_its_twin_does(ranges, by_page, inflating, inside, capacity):
    balloon = np.array(naive.bitmap_words(inside, 0, 2), np.uint64)
    state = device(balloon, "page" if by_page else "range", inflating, capacity)
    found = [extent for batch in translated(state, ranges) for extent in batch]
    expected, refused, repeating = naive.translate(
        SLOTS.tolist(), ranges, by_page, inside, inflating
    )
    assert counts(state)[faults.OUTSIDE_RAM] == len(refused)
    assert counts(state)[faults.REPEATED] == len(repeating)
    assert balloon.tolist() == naive.bitmap_words(inside, 0, 2)
    assert as_pages(found) == as_pages(expected)
    if by_page or capacity == 9:
        assert [tuple(extent) for extent in found[:8]] == expected[:8]


def as_pages(extents):
    """The pages of extents in order, as they are discarded."""
    assert all(offset % 4096 == length % 4096 == 0 and length for offset, length in extents)
    return sorted(
        page
        for offset, length in extents
        for page in range(offset // 4096, (offset + length) // 4096)
    )


def test_neighbours_in_either_direction_become_one_extent():
    for order in ([3, 4, 5], [5, 4, 3]):
        state = device(np.zeros(2, np.uint64))
        assert translated(state, [(page, 1) for page in order]) == [[[3 * 4096, 3 * 4096]]]


def test_what_is_in_the_balloon_is_discarded_no_second_time():
    balloon = np.zeros(2, np.uint64)
    for ranges, expected, bad in (
        ([(4, 4)], [[4, 4]], 0),
        ([(2, 8)], [[2, 2], [8, 2]], 1),  # overlaps what an earlier message named
        ([(20, 2), (20, 2), (21, 3)], [[20, 4]], 2),  # repeats itself
    ):
        state = device(balloon)
        (extents,) = translated(state, ranges)
        assert (np.array(extents) // 4096).tolist() == expected
        assert counts(state)[faults.REPEATED] == bad
    state = device(balloon, inflating=False)
    assert translated(state, [(0, 10)]) == [[[2 * 4096, 8 * 4096]]]  # 0 and 1 never entered
    assert counts(state)[faults.REPEATED] == 1


def test_a_batch_ends_even_where_all_pages_repeat():
    """So that the device sees STOP in between: a message can name the same pages often."""
    for way in ("page", "range"):
        state = device(~np.zeros(2, np.uint64), way, capacity=5)
        batches = translated(state, [(0, 40)] * 100)
        assert len(batches) >= 100 / 5
        assert not any(batches)
        assert counts(state)[faults.REPEATED] == 100


@pytest.mark.slow_interpreted
def test_both_queues_may_be_at_work_at_once():
    """Even pages enter while odd ones leave, in two threads: no bit is lost."""
    n_pages = 1 << 20
    memory = Memory(np.zeros(1, np.uint8), 0, np.array([(0, n_pages, 0, 1)], np.int64))
    balloon = np.full(n_pages // 64, 0xAAAAAAAAAAAAAAAA, np.uint64)  # the odd ones are in
    pages = np.arange(0, n_pages, 2)

    def work(first, inflating):
        ranges = np.stack([pages + first, np.ones_like(pages)], axis=1)
        state = device(balloon, inflating=inflating, capacity=n_pages)
        translate(memory, state, ranges)
        assert state.state[0]["range"] == pages.size

    for _ in range(10):
        threads = [threading.Thread(target=work, args=args) for args in ((0, True), (1, False))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (balloon == 0x5555555555555555).all()
        balloon[:] = 0xAAAAAAAAAAAAAAAA


def test_bad_records_are_logged_one_by_one_up_to_a_limit():
    fault = np.zeros(1, faults.FAULTS)
    for number in range(faults.LOG_ROWS + 3):
        fault[0]["message"] = number + 1
        faults.record_fault(fault, faults.PAGE_SHIFT, 8 * number)
    rows = faults.logged(fault)
    assert rows[:2].tolist() == [[1, faults.PAGE_SHIFT, 0], [2, faults.PAGE_SHIFT, 8]]
    assert len(rows) == faults.LOG_ROWS
    assert fault[0]["counts"][faults.PAGE_SHIFT] == faults.LOG_ROWS + 3


def test_resolve_finds_buffers_within_one_slot_only():
    memory = Slots()
    assert resolve(memory, 5 * 4096 + 7, 100) == 5 * 4096 + 7
    assert resolve(memory, 64 * 4096, 16 * 4096) == 40 * 4096
    assert resolve(memory, 39 * 4096, 4097) == -1
    assert resolve(memory, 50 * 4096, 1) == -1
    assert resolve(memory, -1, 1) == -1
    assert resolve(memory, 0, -1) == -1


@given(gpa=st.integers(0, 110 * 4096), n_bytes=st.integers(-1, 50 * 4096))
def test_resolve_does_what_its_twin_does(gpa, n_bytes):
    assert resolve(Slots(), gpa, n_bytes) == naive.resolve(SLOTS.tolist(), gpa, n_bytes)


def test_an_untouched_guest_may_be_larger_than_the_host():
    guest = GuestRam(64 << 18)
    assert guest.memory.ram.size > 64 << 30


def test_ram_of_a_large_guest_has_two_slots_and_its_kernels_own():
    guest = GuestRam(8 << 18)
    starts = guest.memory.slots[:, 0].tolist()
    assert starts == [0, DRIVER_GPA >> 12, 1 << 20]
    assert guest.memory.slots[:, 3].tolist() == [1, 0, 1]
    pages = np.array(
        [0, (3 << 18) - 1, 3 << 18, DRIVER_GPA >> 12, 1 << 20, (9 << 18) - 1], np.uint64
    )
    assert guest.page_index(pages).tolist() == [0, (3 << 18) - 1, -1, -1, 3 << 18, (8 << 18) - 1]
    assert guest.memory.base_address % HUGE_BYTES == 0


def test_touching_backs_every_page_and_discarding_takes_exactly_its_own():
    guest = GuestRam(512)
    assert not guest.resident().any()
    steps = []
    guest.touch(steps.append)
    assert sum(steps) == 512 * 4096
    assert guest.resident().all()
    none = np.zeros(512, bool)
    assert guest.count_lost(none) == 0
    extents = np.array([(10 * 4096, 3 * 4096), (511 * 4096, 4096)], np.int64)
    assert discard(guest.memory, extents, DONTNEED) == 0
    gone = np.flatnonzero(~guest.resident())
    assert gone.tolist() == [10, 11, 12, 511]
    assert guest.count_lost(none) == 4
    ballooned = none.copy()
    ballooned[gone] = True
    assert guest.count_lost(ballooned) == 0
    bad = np.array([(1, 4096)], np.int64)
    assert discard(guest.memory, bad, DONTNEED) == 1


def test_huge_pages_are_refused_where_there_are_none(monkeypatch, tmp_path):
    switch = tmp_path / "enabled"
    monkeypatch.setattr(ram, "THP_SWITCH", switch)
    with pytest.raises(ValueError, match="absent"):
        GuestRam(16, thp=True)
    switch.write_text("always madvise [never]\n")
    with pytest.raises(ValueError, match="measure with thp=False"):
        GuestRam(16, thp=True)


def test_more_than_the_kernel_maps_is_a_memory_error():
    with pytest.raises(MemoryError, match="choose a smaller memory="):
        GuestRam(1 << 40)
