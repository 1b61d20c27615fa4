"""Counts without a measurement: as measured, and of guests whose pages nobody can list."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab.model import COUNTS, counting, counts
from balloonlab.pages import streams
from balloonlab.wire.bitmap import pack_windows

from . import naive
from .strategies import FAITHFUL, few_words

PATTERNS = ("idle", "random", "huge", "every:3", "geometric:1", "geometric:20.5")
PIECE = 1 << 12


def small(pattern, memory="64MiB", balloon="20MiB", piece=PIECE):
    """A stream in many pieces, of a guest that can be listed."""
    stream = streams.open_stream(pattern, memory, balloon)
    object.__setattr__(stream, "piece_pages", piece)
    return stream


def listed(stream, **order):
    return np.concatenate(list(stream.lists(**order)))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stream_gives_each_page_once_and_the_same_ones_as_bits(pattern):
    stream = small(pattern)
    pages = listed(stream)
    assert pages.size == np.unique(pages).size == stream.balloon_pages == 5120
    assert (stream.lowest, stream.end) == (pages.min(), pages.max() + 1)
    found = [
        first + 64 * word + bit
        for first, words in stream.windows(1 << 12)
        for word, value in enumerate(words.tolist())
        for bit in range(64)
        if value >> bit & 1
    ]
    assert sorted(pages.tolist()) == found
    assert (listed(stream, newest_first=True) == pages[::-1]).all()


@pytest.mark.parametrize("pattern", ["idle", "every:3", "every:1"])
@pytest.mark.parametrize(("memory", "balloon"), [("64MiB", "20MiB"), ("5GiB", "1600MiB")])
def test_what_is_not_drawn_is_as_it_is_listed(pattern, memory, balloon):
    for piece in (PIECE, 1 << 20):
        if piece == PIECE and memory == "5GiB":
            continue
        pages = listed(small(pattern, memory, balloon, piece))
        assert (pages == bl.patterns.make(pattern, memory, balloon)).all()


def test_what_is_drawn_has_the_share_and_the_runs_that_were_asked_for():
    quarters = listed(small("random", "64MiB", "16MiB")).reshape(4, -1)
    assert (quarters // PIECE == np.arange(4)[:, None]).all()  # exactly a quarter of each
    lengths = [n for _, n in naive.runs(listed(small("geometric:20.5")).tolist())]
    assert np.mean(lengths) == pytest.approx(20.5, rel=0.02)
    assert np.median(lengths) < 16  # geometric: half are shorter than 0.69 of the mean
    starts = {start % 512 for start, _ in naive.runs(listed(small("huge")).tolist())}
    assert starts == {0}
    assert not np.array_equal(quarters[0], quarters[1] - np.uint64(PIECE))


def test_the_same_seed_gives_the_same_pages():
    one, same, other = (streams.open_stream("random", "64MiB", "4MiB", n) for n in (1, 1, 2))
    assert (listed(one) == listed(same)).all()
    assert not (listed(one) == listed(other)).all()


@pytest.mark.once
def test_an_aged_guest_is_repeated():
    stream = streams.open_stream("aged", "8GiB", "4GiB")
    pages = listed(stream)
    tile = streams.TILE_PAGES
    assert pages.size == np.unique(pages).size == 1 << 20
    third, fourth = pages[tile:].reshape(2, -1)  # the second lies on both sides of the hole
    assert (third + np.uint64(tile) == fourth).all()
    for start in (0, tile):
        assert (
            np.flatnonzero(stream.bits(start, start + tile)) == np.sort(pages[: tile // 2])
        ).all()
    with pytest.raises(ValueError, match="multiple of 2 GiB"):
        streams.open_stream("aged", "7GiB", "1GiB")
    with pytest.raises(ValueError, match="at most"):
        streams.open_stream("aged", "4GiB", "3800MiB")


def test_patterns_that_cannot_be_are_refused():
    for pattern, message in {
        "every:9": "a K of at most", "geometric:0.5": "one of", "huge": "whole huge pages",
        "trace:idle-4GiB-85-inflate": "must be one of idle", "idel": "nearest is 'idle'",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            streams.open_stream(pattern, "64MiB", 1024 * 4096 * 3 + 4096)


@given(
    few_words(),
    st.sampled_from(["page", "range", "sorted", "vector", "sorted-vector"]),
    st.sampled_from([1, 3]),
)
def test_calls_are_those_of_a_plain_twin(pages, discard, collect):
    vectors = 5 if "vector" in discard else None
    for protocol in ("pfn", "bitmap-v4", "adaptive"):
        options = {"discard": discard, "collect": collect, "vectors": vectors}
        found = counts(np.array(pages, np.uint64), protocol, kick_pages=256, **options)
        stream = bl.wire.encode(pages, protocol)
        messages = [bl.wire.decode([buffer], protocol).tolist() for buffer in stream]
        assert found["n_discards"] == naive.count_calls(messages, discard, vectors or 1, collect)
        assert (found["n_pages"], found["n_kicks"]) == (len(pages), len(stream))
        assert found["wire_bytes"] == sum(map(len, stream))


CASES = [
    {"protocol": name, "pattern": pattern}
    for name, pattern in itertools.product(FAITHFUL, ["random", "geometric:20"])
] + [
    {"protocol": "pfn", "pattern": "aged", "discard": "range"},
    {"protocol": "pfn", "pattern": "random", "discard": "sorted", "kick_pages": 8192},
    {"protocol": "pfn", "pattern": "idle", "discard": "range", "operation": "deflate"},
    {"protocol": "pfn", "pattern": "random", "discard": "range", "order": "shuffled"},
    {"protocol": "bitmap-v4", "pattern": "random", "discard": "page"},
    {"protocol": "bitmap-v4", "pattern": "every:2", "threads": 2},
    {"protocol": "bitmap-v4", "pattern": "idle", "threads": 3},
    {"protocol": "madvise"},
]


@pytest.mark.once
@pytest.mark.once
@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_counts_are_those_of_a_measurement(case):
    sizes = {"memory": "64MiB", "balloon": "24MiB"}
    run = bl.measure(**sizes, **case, repeats=1, progress=False)
    assert counts(**{"pattern": "idle"} | sizes | case) == run.frame[list(COUNTS)].iloc[0].to_dict()


@pytest.mark.once
@pytest.mark.parametrize("protocol", FAITHFUL)
@pytest.mark.parametrize("discard", ["range", "sorted"])
@pytest.mark.parametrize("pattern", ["random", "idle", "geometric:20"])
def test_counts_of_a_stream_are_those_of_its_list(protocol, discard, pattern, monkeypatch):
    stream = small(pattern, "5GiB", "4608MiB", 1 << 19)
    monkeypatch.setattr(counting, "_pages_of", lambda case: stream)
    case = {"memory": "5GiB", "balloon": "4608MiB", "discard": discard, "kick_pages": 256}
    found = counts(pattern, protocol, **case)
    monkeypatch.undo()
    assert found == counts(listed(stream), protocol, discard=discard)


@pytest.mark.once
def test_windows_of_a_list_are_those_of_its_stream():
    stream = small("random", "5GiB", "4608MiB", 1 << 19)
    (one,) = stream.windows(counting.WINDOW_PAGES)
    (other,) = pack_windows(listed(stream))
    assert one[0] == other[0]
    assert (one[1] == other[1]).all()


def test_huge_pages_are_discarded_when_all_of_them_is_in_the_balloon():
    found = counts("idle", "pfn", memory="64MiB", balloon="56MiB", backing="hugetlb")
    assert found["n_discards"] == 28
    assert (
        counts("every:2", "pfn", memory="8MiB", balloon=0.5, backing="hugetlb")["n_discards"] == 0
    )


def test_a_message_takes_the_pages_of_neighbours_only():
    """What adjoins in two messages is two calls, of pfn by range as by sorting."""
    pages = np.arange(512, dtype=np.uint64)
    assert counts(pages, "pfn", discard="range")["n_discards"] == 2
    assert counts(pages, "pfn", discard="range", collect=2)["n_discards"] == 1
    evens = np.r_[pages[::2], pages[1::2]]
    assert counts(evens, "pfn", discard="range")["n_discards"] == 512
    assert counts(evens, "pfn", discard="sorted", collect=2)["n_discards"] == 1


@pytest.mark.once
def test_64_tib_are_counted():
    found = counts("idle", "bitmap-v4", memory="64TiB")
    assert found["n_pages"] == 7 * 2**31
    assert found["n_kicks"] == found["n_discards"] == 1792
    small_one = counts("idle", "bitmap-v4", memory="1TiB")
    assert {name: n / small_one[name] for name, n in found.items()} == dict.fromkeys(COUNTS, 64)


def test_what_cannot_be_counted_is_refused_with_the_reason():
    for case, message in {
        ("protocol", "bitmap-v4-posted"): "leaves pages out",
        ("allocation", "chunk"): "allocation must be 'page'",
        ("steps", 2): "steps must be 1",
        ("protocol", "pnf"): "did you mean",
    }.items():
        with pytest.raises(ValueError, match=message):
            counts("idle", **dict([case]), memory="64MiB")
    with pytest.raises(ValueError, match=r"below 2\*\*32 in 'pfn'.*use 'bitmap-v4'"):
        counts("idle", "pfn", memory="20TiB")
    with pytest.raises(ValueError, match="must not repeat"):
        counts(np.array([1, 1], np.uint64), "pfn")
    with pytest.raises(ValueError, match=r"below 2\*\*36"):
        counts(np.array([2**40], np.uint64), "bitmap-v4")


@pytest.mark.once
def test_one_message_that_names_all_of_a_large_guest_takes_no_memory_for_it():
    """4,096 runs of 16 GiB: the bits of 64 TiB would take 2 GiB."""
    code = (
        "from balloonlab.model import counts;"
        "found = counts('idle', 'adaptive', memory='64TiB', discard='range');"
        "status = open('/proc/self/status').read();"  # ru_maxrss is of the parent, too
        "used = int(status.partition('VmHWM:')[2].split()[0]);"
        "print(found['n_kicks'], found['n_discards'], used >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    n_kicks, n_discards, used_gib = map(int, done.stdout.split())
    assert (n_kicks, used_gib) == (1, 0)
    assert n_discards >= 1
