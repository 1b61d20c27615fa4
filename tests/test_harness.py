"""Every encoding of the same pages: counts, references, orders, times."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import harness, wire
from balloonlab.harness import counting, timing
from balloonlab.kernels import streams
from balloonlab.wire.run_records import runs_of

from . import naive
from .strategies import page_sets

RUNS = [name for name in wire.spoken() if runs_of(wire.get(name)) is not None]


@pytest.mark.parametrize("protocol", RUNS)
@given(pages=page_sets(limit=70_000))
def test_runs_off_a_list_keep_its_order(protocol, pages):
    numbers = np.array(pages, np.uint64)
    stream, _ = counting.messages(protocol, numbers, "list")
    ranges = wire.decode(stream, protocol)
    assert ranges.tolist() == naive.listed_runs(pages)
    assert all(len(buffer) <= wire.get(protocol).max_message_bytes for buffer in stream)


@given(pages=page_sets(limit=200_000))
def test_references_are_what_they_are_of_a_plain_set(pages):
    numbers, memory_pages = np.array(pages, np.uint64), 1 << 33
    found = {name: count(numbers, memory_pages) for name, count in counting.REFERENCES.items()}
    there = set(pages)
    whole = {n: [b for b in {p // n for p in there} if all(n * b + i in there for i in range(n))]
             for n in (512, 1024)}  # fmt: skip
    assert found["sg"].n_records == len(list(naive.runs(sorted(pages))))
    assert found["sg"].n_discards == found["sg"].n_records  # no run fills a descriptor
    assert found["hinting"].n_kicks == found["hinting"].n_discards == len(whole[1024])
    assert found["reporting"].n_named == 512 * len(whole[512])
    assert found["reporting"].n_records == len(whole[512]) - len(whole[1024])
    bits = math.log2(math.comb(memory_pages, len(pages))) if len(pages) < 900 else None
    assert bits is None or abs(8 * found["bound"].wire_bytes - bits) < 8 + 1e-6 * bits


@given(pages=page_sets(limit=70_000), protocol=st.sampled_from(harness.names()))
def test_what_is_timed_is_what_is_counted(pages, protocol):
    numbers = np.array(pages, np.uint64)
    pair = timing.works(protocol, numbers, "sorted") if pages else None
    if pair is None or protocol == "roaring":
        return
    counted = counting.count(protocol, numbers, 1 << 33, "sorted")
    encode, decode = pair
    assert encode() == (counted.n_kicks, counted.wire_bytes)
    assert decode() == counted.n_ranges


@given(ranges=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6))))
def test_neighbours_on_either_side_make_one_discard(ranges):
    rows = np.array(ranges, np.int64).reshape(-1, 2)
    assert streams.count_joined(rows) == len(naive.joined_ranges(ranges))


@pytest.mark.once
@pytest.mark.parametrize("protocol", [name for name in harness.names() if name in wire.spoken()])
def test_discards_are_those_of_a_device_that_joins_neighbours(protocol, rng):
    for pattern in ("geometric:40", "idle", "random"):
        pages = bl.patterns.make(pattern, "64MiB", "32MiB", rng=rng)
        counted = counting.count(protocol, pages, 1 << 14, "sorted")
        modelled = bl.model.counts(pages, protocol, memory="64MiB", discard="range")
        assert counted.n_discards == modelled["n_discards"]
        assert counted.n_discards < counted.n_ranges or counted.n_ranges < pages.size


@pytest.mark.once
def test_a_run_that_two_messages_share_is_a_discard_in_each(monkeypatch):
    monkeypatch.setattr(counting, "DESC_PAGES", 2)
    monkeypatch.setattr(counting, "QUEUE_SIZE", 2)
    pages = np.array([0, 1, 2, 10, 11, 12, 13, 14], np.uint64)  # in descriptors: 2 1 | 2 2 | 1
    found = counting.REFERENCES["sg"](pages, 64)
    assert (found.n_kicks, found.n_records, found.n_discards) == (3, 5, 3)


@pytest.mark.once
def test_a_row_for_each_pattern_order_and_protocol(tmp_path):
    frame = bl.encodings(
        ["every:2", "idle"], "64MiB", 0.25, ["pfn", "range-v6", "hinting"], repeats=1,
        guests=["thread"], out=tmp_path, progress=False,
    )  # fmt: skip
    assert len(frame) == 2 * 2 * 3
    assert (frame["n_pages"] == 4096).all()
    spoken = frame[frame["protocol"] != "hinting"]
    assert (spoken[["encode_ns", "decode_ns", "lab_ns"]] > 0).all().all()
    assert frame.loc[frame["protocol"] == "hinting", ["encode_ns", "lab_ns"]].isna().all().all()
    assert frame.groupby("pattern")["density"].first().tolist() == [0.25, 0.25]
    assert (tmp_path / "encodings.csv").exists()
    assert (tmp_path / "measured" / "1" / "timings.csv").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocols": ["pfm"]}, "protocols must be one of .*'pfn'"),
        ({"orders": []}, "orders must have at least one of list, sorted"),
        ({"guests": ["linux"]}, "guests must be one of thread, kvm"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1"),
        ({"patterns": ["every:2", "evry:2"]}, "pattern must be one of"),
        ({"patterns": []}, "patterns must have at least one spelling"),
        ({"protocols": ["sg"], "guests": ["kvm"]}, "protocols must have one that a driver speaks"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(given, message):
    with pytest.raises(ValueError, match=message):
        bl.encodings(**{"patterns": "every:2", "memory": "8MiB", "progress": False, **given})


def test_without_pyroaring_all_else_is_compared(monkeypatch):
    monkeypatch.setattr(counting, "find_spec", lambda name: None)
    assert "roaring" not in harness.names()
    frame = bl.encodings("every:2", "8MiB", "4MiB", orders=["list"], repeats=1, progress=False)
    assert frame["protocol"].tolist() == harness.names()
    with pytest.raises(ValueError, match="'roaring', which needs the library pyroaring: `pip "):
        bl.encodings("every:2", "8MiB", "4MiB", ["pfn", "roaring"], progress=False)
