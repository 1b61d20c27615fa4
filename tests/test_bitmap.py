"""Packing and run finding against plain twins and two peer libraries."""

import numpy as np
import pytest
from bitarray import bitarray
from bitarray.util import intervals
from hypothesis import given

from balloonlab import wire

from . import naive
from .strategies import bitmaps, page_sets


@given(pages=page_sets())
def test_pack_sets_the_bits_of_the_pages_and_no_others(pages):
    if not pages:
        with pytest.raises(ValueError, match="at least one page"):
            wire.pack(pages)
        return
    first_pfn, words = wire.pack(pages)
    assert first_pfn == min(pages) // 64 * 64
    assert words.tolist() == naive.bitmap_words(pages, first_pfn, len(words))
    assert len(words) == (max(pages) - first_pfn) // 64 + 1


def test_pack_gives_the_layout_of_numpys_packbits(rng):
    flags = rng.random(64 * 50) < 0.4
    flags[0] = flags[-1] = True
    _, words = wire.pack(np.flatnonzero(flags))
    assert np.array_equal(np.packbits(flags, bitorder="little").view("<u8"), words)


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("offset", [0, 1, 63, 64])
def test_pack_of_contiguous_blocks_and_of_nearly_contiguous_ones(step, offset):
    pages = np.arange(1000, dtype=np.uint64)[::step] + np.uint64(offset)
    swapped = pages.copy()
    swapped[[100, 101]] = swapped[[101, 100]]
    for array in (pages, swapped):
        first_pfn, words = wire.pack(array)
        assert words.tolist() == naive.bitmap_words(array.tolist(), first_pfn, len(words))


@given(words=bitmaps())
def test_find_runs_gives_maximal_runs(words):
    pages = [
        64 * w + i for w, word in enumerate(words.tolist()) for i in range(64) if word >> i & 1
    ]
    runs = wire.find_runs(words)
    assert runs.tolist() == naive.runs(pages)
    shifted = wire.find_runs(words, first_pfn=2**40)
    assert (shifted["start_pfn"] - runs["start_pfn"] == 2**40).all()
    packed = bitarray(endian="little")
    packed.frombytes(words.tobytes())
    assert [(a, b - a) for value, a, b in intervals(packed) if value] == runs.tolist()


def test_find_runs_into_room_that_is_used_again(rng):
    words = rng.integers(0, 2**64, 100, dtype=np.uint64)
    expected = wire.find_runs(words)
    out = np.zeros(expected.size + wire.SPARE_RUNS, wire.RANGE)
    found = wire.find_runs(words, out=out)
    assert np.shares_memory(found, out)
    assert np.array_equal(found, expected)
    with pytest.raises(ValueError, match="out must be"):
        wire.find_runs(words, out=out[:-1])
    for bad in (np.zeros((2, 200), wire.RANGE), [1]):
        with pytest.raises(ValueError, match="out must be"):
            wire.find_runs(words, out=bad)
    for bad, error in ((-64, ValueError), (2**52, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            wire.find_runs(words, first_pfn=bad)
    with pytest.raises(TypeError, match="uint64"):
        wire.find_runs(words.astype(np.int64))
