"""The driver as posted: its twin, what is wrong with it, and the search that finds it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import wire

from . import naive
from .strategies import BITMAP, strewn_pages

WHAT = {"set": "a bit is set", "null": "a bitmap is walked", "freed": "the bitmap being walked"}
WHAT["overrun"] = "records are written beyond"


@pytest.mark.slow_interpreted
@given(
    pages=strewn_pages(),
    earlier=st.integers(0, 100),
    bitmaps=st.sampled_from([1, 2, 3, 32]),
    failing=st.one_of(st.just(set()), st.just(range(99)), st.sets(st.integers(0, 4), max_size=3)),
    up=st.booleans(),
)
def test_it_does_what_its_twin_does(pages, earlier, bitmaps, failing, up):
    pages = pages if up else pages[::-1]
    earlier = min(earlier, len(pages) - 1)
    before, new = pages[:earlier], pages[earlier:]
    run = wire.run_posted(new, before, bitmaps, failing_sends=failing)
    n_bitmaps = min(bitmaps, max(pages) // BITMAP + 1)
    buffers, fault = naive.run_posted(new, before, n_bitmaps, failing)
    assert run.buffers == buffers
    assert (run.fault is None) == (fault is None)
    if fault is not None:
        assert run.fault.what.startswith(WHAT[fault])
        assert run.fault.n_sends == len(buffers)
        return
    named = run.sent.tolist()
    assert set(run.never_sent.tolist()) == set(new) - set(named)
    again = {page for page in named if page in before or named.count(page) > 1}
    assert set(run.sent_again.tolist()) == again


@pytest.mark.slow_interpreted
@given(pages=strewn_pages(), bitmaps=st.sampled_from([1, 2, 32]))
def test_only_the_first_page_of_a_window_is_ever_forgotten(pages, bitmaps):
    run = wire.run_posted(pages, bitmaps=bitmaps)
    if run.fault is None:
        top, window = max(pages), min(bitmaps, max(pages) // BITMAP + 1) * BITMAP
        lost = top % 64 == 0 and (top - min(pages) // 64 * 64) % window == 0
        assert run.never_sent.tolist() == ([top] if lost else [])
        assert run.sent_again.size == 0


@pytest.mark.parametrize(
    ("pages", "bitmaps", "never_sent"),
    [
        ([64], 32, [64]),
        ([64, 65], 32, []),
        (range(65), 32, []),
        ([10, 32 * BITMAP], 32, [32 * BITMAP]),
        ([10, 33 * BITMAP], 1, [33 * BITMAP]),
    ],
)
def test_pages_never_told(pages, bitmaps, never_sent):
    run = wire.run_posted(pages, bitmaps=bitmaps)
    assert run.fault is None
    assert run.never_sent.tolist() == never_sent
    corrected = wire.decode(wire.encode(pages, "bitmap-v4"), "bitmap-v4")
    assert corrected["n_pages"].sum() == len(pages)


def test_pages_told_again_are_those_of_the_whole_window():
    earlier = [5, 63, 64, 99, 200, 290, 300, 5 * BITMAP]
    run = wire.run_posted([100, 291], earlier, max_pfn=9 * BITMAP)
    assert run.sent_again.tolist() == [64, 99, 200, 290, 300, 5 * BITMAP]
    alone = wire.run_posted([100, 291], earlier, bitmaps=1, max_pfn=9 * BITMAP)
    assert alone.sent_again.tolist() == [64, 99, 200, 290, 300]


@pytest.mark.parametrize(
    ("pages", "what", "where", "n_sends"),
    [
        ([0, 33 * BITMAP], "a bit is set", (1, 1, 33 * BITMAP), 1),
        (range(0, 2 * BITMAP, 2), "a bitmap is walked", (0, 1, BITMAP), 2),
        ([3, *range(BITMAP, BITMAP * 3 // 2, 2)], "the bitmap being walked", (0, 1, 391168), 1),
    ],
)
def test_bitmaps_freed_too_early(pages, what, where, n_sends):
    run = wire.run_posted(list(pages))
    assert run.fault.what.startswith(what)
    assert (run.fault.window, run.fault.bitmap, run.fault.pfn) == where
    assert (run.fault.n_sends, run.fault.n_bitmaps_left) == (n_sends, 1)
    with pytest.raises(wire.PostedDriverError, match=f"crashes here: {what}"):
        wire.encode(list(pages), "bitmap-v4-posted")
    assert wire.run_posted(list(pages), bitmaps=1).fault is None


def test_sends_that_fail_overrun_the_record_area_in_the_end():
    pages = np.arange(0, BITMAP, 64)
    few, many = (wire.run_posted(pages, failing_sends=range(n)) for n in (31, 32))
    assert few.fault is None
    assert max(map(len, few.buffers)) == 8 + 32768
    assert many.fault.what.startswith("records are written beyond")
    assert many.buffers == []


def test_every_window_walks_the_whole_list():
    pages = np.arange(0, 64 * BITMAP, 1000)
    assert wire.run_posted(pages, bitmaps=1).n_walked == 64 * pages.size
    assert wire.run_posted(pages[pages < BITMAP], bitmaps=1).n_walked == 263


def test_it_can_be_measured_where_it_survives_and_says_where_not():
    run = bl.measure(memory="8MiB", protocol="bitmap-v4-posted", steps=4, repeats=1)
    assert set(run.frame["negotiated_protocol"]) == {"bitmap-v4-posted"}
    assert set(run.frame["n_kicks"]) == {4}
    assert set(run.frame["n_discards"]) == {4}
    for pattern, error, words in (
        ([128], RuntimeError, "1 ballooned pages are still backed"),
        (range(0, 2 * BITMAP, 2), wire.PostedDriverError, "crashes here: a bitmap is walked"),
    ):
        with pytest.raises(error, match=words):
            bl.measure(
                pattern=list(pattern),
                memory="3GiB",
                protocol="bitmap-v4-posted",
                repeats=1,
                touched=len(pattern) == 1,
            )


def test_refusals():
    for call, words in (
        (lambda: wire.run_posted([]), "at least one page"),
        (lambda: wire.run_posted([1], bitmaps=0), "1 to 32, got 0"),
        (lambda: wire.run_posted([1], [1]), "repeat a page"),
        (lambda: wire.run_posted([9], max_pfn=9), "above the highest page 9, got 9"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert wire.encode([], "bitmap-v4-posted") == []


SMALLEST = {  # pages, pages before, failing sends: at most
    "a page is never sent": (1, 0, 0),
    "a page is sent again": (2, 1, 0),
    "a bit is set in a freed bitmap": (2, 0, 0),
    "a freed bitmap is to be walked": (2018, 0, 0),
    "a bitmap is freed while walked": (2018, 0, 0),
    "the record area overruns": (2049, 0, 32),
}


@pytest.mark.once
@pytest.mark.parametrize("defect", bl.wire.DEFECTS)
def test_the_search_finds_the_smallest_example_by_itself(defect):
    found = bl.wire.smallest(defect)
    assert bl.wire.DEFECTS[defect](found.run)
    size = (len(found.pfns), len(found.earlier), found.failing_sends)
    assert all(np.array(size) <= SMALLEST[defect])


def test_the_search_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"a page is never sent, .* got 'a leak'"):
        bl.wire.smallest("a leak")


@pytest.mark.slow_interpreted
def test_strikes_says_what_came_of_each_page_set():
    frame = bl.wire.defect_rates(["64MiB", "2GiB"], [1, 16384], trials=2, progress=False)
    assert len(frame) == 8
    outcomes = frame.groupby(["memory_bytes", "mean_run_pages"])["outcome"].unique()
    small, large = 64 << 20, 2 << 30
    once = "every page sent once"
    assert outcomes[small, 1].tolist() == outcomes[small, 16384].tolist() == [once]
    assert outcomes[large, 1].tolist() == ["a freed bitmap is to be walked"]
    assert outcomes[large, 16384].tolist() == [once]
    assert (frame.query("outcome == @once")["sent_share"] == 1).all()
    ax = bl.figures.defect_rates(frame)
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("all sent") == 3
    assert texts[2].startswith("100% fail\n49% sent")
    with pytest.raises(ValueError, match="must have rows"):
        bl.figures.defect_rates(frame[:0])
