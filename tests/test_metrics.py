"""Numbers about page sets and free memory against plain counting and the wire's bitmaps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import patterns, wire
from balloonlab.kernels import buddy as kernels
from balloonlab.pages import Buddy, metrics

from . import naive
from .strategies import page_sets


@given(pages=page_sets())
def test_run_lengths_are_those_of_the_set(pages):
    frame = metrics.run_lengths(pages)
    lengths = [length for _, length in naive.runs(pages)]
    assert frame["run_pages"].tolist() == sorted(set(lengths))
    assert frame["n_runs"].tolist() == [lengths.count(n) for n in frame["run_pages"]]
    assert frame["pages_share"].sum() == pytest.approx(1 if pages else 0)


@given(pages=page_sets(limit=20_000))
def test_word_occupancy_counts_the_bits_of_every_word(pages):
    frame = metrics.word_occupancy(pages)
    counts = list(naive.bits_by_word(pages).values())
    assert frame["bits_set"].tolist() == list(range(65))
    assert frame["n_words"].tolist() == [counts.count(bits) for bits in range(65)]
    assert (frame["bits_set"] * frame["n_words"]).sum() == len(pages)
    for share in ("words_share", "pages_share"):
        assert frame[share].sum() == pytest.approx(1 if pages else 0)


@given(pages=page_sets())
def test_words_are_those_of_the_wire(pages):
    if not pages:
        return
    _, words = wire.pack(pages)
    expected = np.bincount(np.bitwise_count(words), minlength=65)
    assert metrics.word_occupancy(pages)["n_words"].tolist() == expected.tolist()


@given(pages=page_sets())
def test_bitmaps_are_cut_as_the_wire_cuts_them(pages):
    frame = metrics.bitmap_occupancy(pages)
    if not pages:
        assert frame.empty
        return
    first_pfn, words = wire.pack(pages)
    bits = np.bitwise_count(np.pad(words, (0, -words.size % 4096))).reshape(-1, 4096)
    rows = [
        [i, first_pfn + i * 262_144, row.sum(), *((row == 64).sum(), (row % 64 > 0).sum())]
        for i, row in enumerate(bits.astype(int))
        if row.any()
    ]
    assert frame[["bitmap", "first_pfn", "bits_set", "n_full", "n_mixed"]].to_numpy().tolist() == (
        rows
    )
    assert (frame[["n_full", "n_mixed", "n_empty"]].sum(axis=1) == 4096).all()


@given(pages=page_sets(limit=20_000))
def test_a_summary_agrees_with_the_details(pages):
    (row,) = metrics.summary({"these": pages}).to_dict("records")
    bits = list(naive.bits_by_word(pages).values())
    runs = naive.runs(pages)
    assert row["name"] == "these"
    assert (row["n_pages"], row["n_runs"], row["n_words"]) == (len(pages), len(runs), len(bits))
    assert row["mean_run_pages"] == pytest.approx(len(pages) / max(1, len(runs)))
    shares = {"full": bits.count(64), "empty": bits.count(0)}
    shares["mixed"] = len(bits) - sum(shares.values())
    for kind, n_words in shares.items():
        assert row[f"{kind}_words_share"] == pytest.approx(n_words / max(1, len(bits)))
    in_full = 64 * bits.count(64) / max(1, len(pages))
    assert row["pages_in_full_share"] == pytest.approx(in_full)
    assert row["pages_in_mixed_share"] == pytest.approx(1 - in_full if pages else 0)


def test_what_is_known_of_some_patterns():
    sets = {
        name: patterns.make(name, "64MiB", "8MiB") for name in ("every:8", "huge", "geometric:4")
    }
    frame = metrics.summary(sets).set_index("name")
    assert frame["n_pages"].tolist() == [2048] * 3
    assert frame["mean_run_pages"]["every:8"] == 1
    assert frame["mean_run_pages"]["geometric:4"] == 4
    assert frame["pages_in_full_share"]["huge"] == 1
    assert frame["mixed_words_share"]["every:8"] == 1
    occupancy = metrics.word_occupancy(sets["every:8"]).set_index("bits_set")
    assert occupancy["words_share"][8] == 1
    assert metrics.run_lengths(patterns.idle("64MiB", "8MiB"))["run_pages"].tolist() == [2048]


def test_pages_far_apart_need_no_bitmap_in_memory():
    pages = [0, (1 << 52) - 1]
    frame = metrics.word_occupancy(pages)
    assert frame["n_words"].tolist() == [(1 << 46) - 2, 2] + [0] * 63
    assert metrics.bitmap_occupancy(pages)["bitmap"].tolist() == [0, (1 << 34) - 1]


@given(n_blocks=st.lists(st.integers(0, 50), min_size=1, max_size=11))
def test_unusable_index_is_gormans(n_blocks):
    index = metrics.unusable_index(n_blocks)
    expected = [naive.unusable_index(n_blocks, order) for order in range(len(n_blocks))]
    assert index.tolist() == pytest.approx(expected)
    assert (np.diff(index) >= 0).all()
    assert not any(n_blocks) or index[0] == 0


def test_free_blocks_of_an_allocator():
    buddy = Buddy.idle(4096)
    frame = metrics.free_blocks(buddy)
    assert frame["n_pages"].tolist() == [0] * 10 + [4096]
    assert (frame["unusable_index"] == 0).all()
    pages = buddy.take(4096)
    assert (metrics.free_blocks(buddy)["unusable_index"] == 1).all()
    kernels.free_blocks(buddy.blocks, 0, pages[::2].copy())
    frame = metrics.free_blocks(buddy)
    assert frame["n_blocks"].tolist() == [2048] + [0] * 10
    assert frame["unusable_index"].tolist() == [0] + [1] * 10


@pytest.mark.parametrize(
    "metric", [metrics.run_lengths, metrics.word_occupancy, metrics.bitmap_occupancy]
)
def test_metrics_refuse_what_is_no_page_set(metric):
    with pytest.raises(ValueError, match="of 2 pages 1 come more than once, the first is 7"):
        metric([7, 3, 7])
    with pytest.raises(TypeError, match="integers"):
        metric([0.5])
