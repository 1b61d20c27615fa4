"""Memory map, translation, discard: against the twin, on real memory."""

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab.host import GuestRam, ram
from balloonlab.kernels import faults
from balloonlab.kernels.memory import discard, resolve, translate
from balloonlab.layout import DRIVER_GPA

from . import naive

# Four slots with a hole between each two neighbours but the first two; the third is no RAM.
SLOTS = np.array([(0, 40, 0, 1), (40, 8, 60, 1), (64, 16, 40, 0), (100, 4, 56, 1)], np.int64)


class Slots:
    """What translate needs of a memory map."""

    def __new__(cls):
        from balloonlab.kernels.memory import Memory

        return Memory(np.zeros(1, np.uint8), 0, SLOTS)


@given(
    ranges=st.lists(st.tuples(st.integers(0, 110), st.integers(1, 30)), max_size=8),
    by_page=st.booleans(),
    capacity=st.integers(1, 9),
)
def test_translate_does_what_its_twin_does(ranges, by_page, capacity):
    array = np.array(ranges, np.int64).reshape(-1, 2)
    position, fault = np.zeros(3, np.int64), faults.no_faults()
    extents, found = np.zeros((capacity, 2), np.int64), []
    while position[0] < len(ranges):
        n = translate(Slots(), array, position, by_page, extents, fault)
        if not by_page and found and n and sum(found[-1]) == extents[0, 0]:
            found[-1][1] += extents[0, 1]  # joined across two calls
            found += extents[1:n].tolist()
        else:
            found += extents[:n].tolist()
    expected, refused = naive.translate(SLOTS.tolist(), ranges, by_page)
    assert fault[faults.OUTSIDE_RAM] == refused
    assert sum(length for _, length in found) == sum(length for _, length in expected)
    if by_page or capacity == 9:
        assert [tuple(extent) for extent in found] == expected
    assert position[2] >= len(expected)


def test_neighbours_in_either_direction_become_one_extent():
    extents = np.zeros((9, 2), np.int64)
    for order in ([3, 4, 5], [5, 4, 3]):
        array = np.array([(page, 1) for page in order], np.int64)
        position = np.zeros(3, np.int64)
        assert translate(Slots(), array, position, False, extents, faults.no_faults()) == 1
        assert extents[0].tolist() == [3 * 4096, 3 * 4096]


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
    assert guest.memory.base_address % ram.HUGE_BYTES == 0


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
    assert discard(guest.memory, extents, mmap.MADV_DONTNEED) == 0
    gone = np.flatnonzero(~guest.resident())
    assert gone.tolist() == [10, 11, 12, 511]
    assert guest.count_lost(none) == 4
    ballooned = none.copy()
    ballooned[gone] = True
    assert guest.count_lost(ballooned) == 0
    bad = np.array([(1, 4096)], np.int64)
    assert discard(guest.memory, bad, mmap.MADV_DONTNEED) == 1


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
