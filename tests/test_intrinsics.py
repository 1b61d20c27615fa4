"""The compiled intrinsics against plain Python, and small kernels against their twins."""

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab.host.backing import DONTNEED
from balloonlab.kernels import clock, hostile, intrinsics, plain, vring
from balloonlab.kernels.contents import count_lost, touch
from balloonlab.kernels.discard import discard
from balloonlab.kernels.translate import Memory
from balloonlab.queue import QUEUE_BYTES, QUEUE_SIZE, build_ring

from . import naive
from .compiled import compiled

WORDS = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**32]), st.integers(0, 2**64 - 1))


CHAIN = st.tuples(st.integers(0, 8 * 4096), st.integers(0, 5000))


@compiled
def bits(word):
    return (
        intrinsics.trailing_zeros(word),
        intrinsics.popcount(word),
        intrinsics.clear_lowest(word),
    )


@compiled
def exchange(array, index, value):
    before = intrinsics.load_acquire(array, index)
    intrinsics.fence()
    intrinsics.store_release(array, index, value)
    intrinsics.atomic_xor(array, index, before)
    return before


@compiled
def copied(there, here):
    intrinsics.copy_items(there, here)


@given(word=WORDS)
def test_bit_counts_are_those_of_plain_python(word):
    word = np.uint64(word)
    expected = (plain.trailing_zeros(word), plain.popcount(word), plain.clear_lowest(word))
    assert tuple(map(int, bits(word))) == tuple(map(int, expected))


@given(words=st.lists(WORDS, max_size=70))
def test_items_are_copied_as_by_a_slice(words):
    here = np.array(words, np.uint64)
    there, twin = np.ones(80, np.uint64), np.ones(80, np.uint64)
    copied(there[3 : 3 + here.size], here)
    plain.copy_items(twin[3 : 3 + here.size], here)
    assert there.tolist() == twin.tolist() == [1] * 3 + words + [1] * (77 - len(words))


@given(words=st.lists(WORDS, min_size=1, max_size=4), value=WORDS, data=st.data())
def test_ordered_accesses_read_and_write_what_plain_ones_do(words, value, data):
    index = data.draw(st.integers(0, len(words) - 1))
    array, twin = np.array(words, np.uint64), np.array(words, np.uint64)
    before = plain.load_acquire(twin, index)
    plain.fence()
    plain.store_release(twin, index, np.uint64(value))
    plain.atomic_xor(twin, index, before)
    assert int(exchange(array, index, np.uint64(value))) == int(before)
    assert array.tolist() == twin.tolist()


def test_a_log_keeps_its_rows_and_counts_those_beyond():
    log = clock.Log.empty(2)
    ends = [clock.record(log, stage, 10 * stage) for stage in (3, 5, 1)]
    assert ends == sorted(ends)
    assert log.rows.tolist() == [[3, 30, ends[0]], [5, 50, ends[1]]]
    assert log.length[0] == 3
    log.clear()
    assert log.length[0] == 0


@given(index=st.integers(0, 0xFFFF), head=st.integers(0, QUEUE_SIZE - 1))
def test_both_indices_wrap_as_the_specification_says(index, head):
    ring = build_ring(np.zeros(QUEUE_BYTES, np.uint8))
    ring.avail[vring.INDEX] = ring.used[vring.INDEX] = index
    vring.offer(ring)
    vring.push_used(ring, head, index)
    assert ring.avail[vring.INDEX] == ring.used[vring.INDEX] == (index + 1) % 0x10000
    assert ring.used_ring[index % QUEUE_SIZE]["id"] == head


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 8 * 4096), st.integers(0, 5000)), min_size=1, max_size=4
    ),
    room=st.sampled_from([64, 9000]),
)
def test_fetch_does_what_its_twin_does(parts, room):
    slots = [(0, 4, 0, 1), (6, 2, 4, 0)]
    ram = np.random.default_rng(0).integers(0, 256, 6 * 4096).astype(np.uint8)
    memory = Memory(ram, 0, np.array(slots, np.int64))
    ring = build_ring(np.zeros(QUEUE_BYTES, np.uint8))
    for i, (gpa, n_bytes) in enumerate(parts):
        vring.describe(ring, i, gpa, n_bytes, vring.DESC_NEXT if i + 1 < len(parts) else 0)
    copy = np.zeros(room, np.uint8)
    n_bytes = vring.fetch(ring, memory, 0, copy)
    data = naive.fetch(slots, ram.tobytes(), parts, room)
    if isinstance(data, str):
        assert n_bytes == -{"address": vring.BAD_ADDRESS, "length": vring.BAD_LENGTH}[data]
    else:
        assert copy[:n_bytes].tobytes() == data


@given(inside=st.sets(st.integers(0, 69)), spoilt=st.sets(st.integers(0, 69)))
def test_lost_pages_are_those_outside_whose_first_word_changed(inside, spoilt):
    ram = np.zeros(70 * 4096, np.uint8)
    touch(ram, 0, 30)
    touch(ram, 30, 40)
    assert ram.view(np.uint64)[::512].tolist() == naive.signatures(70)
    for page in spoilt:
        ram[4096 * page] ^= 1
    ballooned = np.array(naive.bitmap_words(inside, 0, 2), np.uint64)
    assert count_lost(ram, 70, ballooned) == len(spoilt - inside)


@given(extents=st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4)), max_size=5))
def test_discarded_bytes_read_zero_and_no_others_do(extents):
    mapping = mmap.mmap(-1, 20 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ram = np.frombuffer(mapping, np.uint8)
    ram[:] = 7
    memory = Memory(ram, ram.ctypes.data, np.zeros((0, 4), np.int64))
    rows = np.array(extents, np.int64).reshape(-1, 2) * 4096
    assert discard(memory, rows, DONTNEED) == 0
    gone = {page for first, n in extents for page in range(first, first + n)}
    assert {page for page in range(20) if not ram[4096 * page : 4096 * page + 4096].any()} == gone


@pytest.mark.parametrize("seed", [1, 2**63, 0x9E3779B97F4A7C15])
def test_the_generator_of_hostile_cases_is_xorshift64(seed):
    state = np.array([seed], np.uint64)
    drawn = [int(hostile.draw(state)) for _ in range(20)]
    assert drawn == naive.xorshift64(seed, 20)
    assert all(0 <= hostile.below(state, 7) < 7 for _ in range(50))
