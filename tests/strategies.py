"""Page sets as hypothesis makes them: every shape that has ever mattered."""

import numpy as np
from hypothesis import strategies as st

from balloonlab import wire

BITMAP = 262_144

FAITHFUL = [name for name in wire.spoken() if wire.get(name).names_each_page_once]
"""Protocols that tell every page once; the posted one is there to be caught."""

DIVERSE = ["pfn", "bitmap-v4", "adaptive"]
"""Of these a kind each: page numbers, a header and records, records alone."""

EDGES = [0, 1, 62, 63, 64, 65, 127, 128, 4095, 4096, BITMAP - 1, BITMAP, BITMAP + 1, 2 * BITMAP]


def _runs(limit):
    start = st.one_of(st.sampled_from(EDGES), st.integers(0, limit))
    length = st.one_of(st.integers(1, 5), st.sampled_from([63, 64, 65, 128, 1000]))
    return st.lists(st.tuples(start, length), max_size=12)


@st.composite
def page_sets(draw, limit=3 * BITMAP, highest=None):
    """Distinct pages as a list, in ascending, descending or any order."""
    pages = set()
    for start, length in draw(_runs(limit)):
        pages |= set(range(start, start + length))
    pages |= set(draw(st.lists(st.integers(0, limit), max_size=20)))
    word = draw(st.integers(0, max(0, limit // 64 - 7)))
    bits = draw(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2**400 - 1)))  # of one, of many
    pages |= {64 * word + i for i in range(bits.bit_length()) if bits >> i & 1}
    offset = draw(st.sampled_from([0, 0, 1, 64, 1 << 20, (1 << 32) - 4 * BITMAP]))
    ordered = sorted(page + offset for page in pages)
    if highest is not None:
        ordered = [page for page in ordered if page <= highest]
    order = draw(st.sampled_from(["up", "down", "any"]))
    if order == "down":
        ordered.reverse()
    elif order == "any":
        np.random.default_rng(draw(st.integers(0, 99))).shuffle(ordered)
    return ordered


def strewn_pages(limit=3 * BITMAP):
    """Up to three arithmetic progressions: enough records to fill the area several times."""
    first = st.one_of(st.sampled_from(EDGES), st.integers(0, limit))
    step = st.sampled_from([1, 2, 64, 65, 1000])
    count = st.one_of(st.integers(1, 70), st.sampled_from([2017, 2018, 4100]))
    parts = st.lists(st.tuples(first, step, count), min_size=1, max_size=3)
    return parts.map(lambda parts: sorted({f + s * i for f, s, n in parts for i in range(n)}))


def bitmaps():
    """Small uint64 bitmaps with empty, full and mixed words."""
    word = st.one_of(st.just(0), st.just(2**64 - 1), st.integers(0, 2**64 - 1))
    return st.lists(word, max_size=12).map(lambda words: np.array(words, np.uint64))


@st.composite
def few_words(draw, n_words=8):
    """Pages within a few bitmap words: runs, single pages, at word borders and in any order."""
    base = 64 * draw(st.sampled_from([0, 1, 15, 16_384, (1 << 26) - n_words]))
    edge = st.one_of(
        st.integers(0, 64 * n_words), st.integers(0, n_words).map(lambda word: 64 * word)
    )
    pages = set(draw(st.lists(st.integers(0, 64 * n_words - 1), min_size=1, max_size=8)))
    for start, end in draw(st.lists(st.tuples(edge, edge), max_size=4)):
        pages |= set(range(start, end))
    return draw(st.permutations([base + page for page in sorted(pages)]))
