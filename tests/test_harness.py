"""Every encoding of the same pages: counts, references, orders, times."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import harness, wire
from balloonlab.harness import counting, timing
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
    assert found["hinting"].n_kicks == len(whole[1024])
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
