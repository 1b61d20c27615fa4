"""Encoding and decoding against the plain twins, and the rules of the formats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from balloonlab import measure, model, patterns, wire
from balloonlab.kernels import adaptive, adaptive_plan, encode, faults
from balloonlab.kernels.bitmap_v4 import decode_records
from balloonlab.kernels.formats import Encoding, decode
from balloonlab.wire.bitmap import split

from . import naive
from .kvm import MARKS
from .strategies import FAITHFUL, page_sets, strewn_pages

pytestmark = pytest.mark.libraries


def words():
    """Words of a bitmap: empty, full, of few runs, of any bits."""
    few = st.lists(st.integers(0, 63), max_size=3).map(lambda bits: sum({1 << i for i in bits}))
    return st.one_of(st.just(0), st.just(2**64 - 1), few, st.integers(0, 2**64 - 1))


TWINS = {
    "pfn": (naive.encode_pfn, naive.decode_pfn),
    "bitmap-v4": (naive.encode_bitmap_v4, naive.decode_bitmap_v4),
    "bitmap-v4-wide": (naive.encode_bitmap_v4_wide, naive.decode_bitmap_v4),
    "bitmap-v3": (naive.encode_bitmap_v3, naive.decode_bitmap_v3),
    "range-v6": (naive.encode_range_v6, naive.decode_short_or_long),
    "chunk-v7": (naive.encode_chunk_v7, naive.decode_chunk_v7),
    "desc-v11": (naive.encode_desc_v11, naive.decode_desc_v11),
    "cont-pages": (naive.encode_cont_pages, naive.decode_cont_pages),
}


def told(ranges):
    """Every page of decoded ranges, in wire order."""
    pages = [np.arange(start, start + n, dtype=np.uint64) for start, n in ranges.tolist()]
    return np.concatenate(pages) if pages else np.zeros(0, np.uint64)


def test_the_seeds_formats_come_first():
    assert wire.formats()[:2] == ["pfn", "bitmap-v4"]


@pytest.mark.parametrize("protocol", TWINS)
@given(pages=page_sets())
def test_encode_gives_the_twins_bytes(protocol, pages):
    assert wire.encode(pages, protocol) == TWINS[protocol][0](pages)


@pytest.mark.parametrize("protocol", TWINS)
@given(pages=page_sets())
def test_decode_gives_the_twins_ranges_and_each_page_once(protocol, pages):
    stream = wire.encode(pages, protocol)
    ranges = wire.decode(stream, protocol)
    assert ranges.dtype == wire.RANGE
    assert ranges.tolist() == [r for buffer in stream for r in TWINS[protocol][1](buffer)]
    assert sorted(told(ranges).tolist()) == sorted(pages)


def test_a_format_of_ones_own_is_encoded_decoded_and_counted(monkeypatch):
    monkeypatch.setattr(wire, "CODECS", {})
    monkeypatch.setattr("balloonlab.model.accounting.CODECS", wire.CODECS)

    def encode(pages):
        return [int(page).to_bytes(7, "little") for page in pages]

    def decode(buffer):
        return [(int.from_bytes(buffer, "little"), 1)]

    wire.register("seven", encode, decode, 2**56)
    assert wire.formats()[-1] == "seven"
    assert "seven" not in wire.spoken()
    assert told(wire.decode(wire.encode([9, 2, 5], "seven"), "seven")).tolist() == [9, 2, 5]
    counted = model.messages([9, 2, 5], ["seven", "range-v6"])
    assert counted.loc["seven"].tolist() == [3, 21, 3, 3, 3]
    assert counted.loc["range-v6", "records"] == 3
    with pytest.raises(ValueError, match="repeat"):
        wire.encode([9, 9], "seven")
    with pytest.raises(ValueError, match="protocol must be one of"):
        measure(memory="8MiB", protocol="seven", repeats=1)
    wire.register("seven", encode, lambda buffer: [(3, 0)])
    with pytest.raises(ValueError, match=r"'seven' must decode to ranges .*, got 0 pages from 3"):
        wire.decode([b"x"], "seven")
    for name in ("pfn", "", 7):
        with pytest.raises(ValueError, match="name must be a new one"):
            wire.register(name, encode, decode)


@njit
def encode_bits(words, first_pfn, own, area):
    """Words that are not 0, each behind its number; the second number kept counts messages."""
    n, at = 0, own[0]
    while at < words.size and n + 2 <= area.size:
        if words[at] != 0:
            area[n], area[n + 1] = first_pfn // 64 + at, words[at]
            n += 2
        at += 1
    own[0] = at
    return n


@njit
def decode_bits(words, n_bytes, ranges):
    if n_bytes % 16 != 0:
        return -1
    n = 0
    for at in range(0, n_bytes // 8, 2):
        for bit in range(64):
            if (words[at + 1] >> bit) & 1:
                ranges[n, 0], ranges[n, 1] = 64 * np.int64(words[at]) + bit, 1
                n += 1
    return n


@pytest.fixture
def own_format(monkeypatch):
    monkeypatch.setattr(wire, "_OWN", {})
    wire.register("bits", encode_bits, decode_bits)


@pytest.mark.once
@pytest.mark.usefixtures("own_format")
def test_a_compiled_format_of_ones_own_names_every_page_once():
    @given(pages=page_sets())
    def check(pages):
        ranges = wire.decode(wire.encode(pages, "bits"), "bits")
        assert told(ranges).tolist() == sorted(pages)

    check()


@pytest.mark.once
@pytest.mark.usefixtures("own_format")
@pytest.mark.parametrize("guest", ["thread", pytest.param("kvm", marks=MARKS)])
def test_a_compiled_format_of_ones_own_is_measured(guest):
    assert wire.spoken()[-1] == wire.formats()[-1] == "bits"
    run = measure(
        memory="64MiB", protocol="bits", pattern="random", guest=guest, repeats=1, progress=False
    )
    pages = patterns.random("64MiB", "56MiB")
    assert set(run.frame["protocol"]) == {"bits"}
    assert run.frame["wire_bytes"].iloc[0] == 16 * np.unique(pages // 64).size


@pytest.mark.once
@pytest.mark.usefixtures("own_format")
def test_what_ones_own_decoder_says_is_checked():
    with pytest.raises(ValueError, match="own decoder refuses the message"):
        wire.decode([bytes(8)], "bits")
    beyond = (1 << 50).to_bytes(8, "little") + (1 << 63).to_bytes(8, "little")
    with pytest.raises(ValueError, match="ends beyond the page numbers"):
        wire.decode([beyond], "bits")


@pytest.mark.once
def test_a_pair_that_is_not_one_is_refused(monkeypatch):
    monkeypatch.setattr(wire, "_OWN", {})
    with pytest.raises(TypeError, match=r"must both be of numba\.njit, or neither"):
        wire.register("bits", encode_bits, lambda buffer: [])
    with pytest.raises(TypeError, match="must compile as encode"):
        wire.register("bits", njit(lambda words: words.no_such_thing), decode_bits)
    assert "bits" not in wire.formats()


BARE = ["bitmap-v3", "range-v6", "chunk-v7", "desc-v11", "cont-pages", "adaptive"]


@st.composite
def spoilt(draw, protocol):
    """Bytes of any kind, or those of a message of which some are others."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=120))
    pages = draw(page_sets())
    data = bytearray(wire.encode(pages, protocol)[0][:400]) if pages else bytearray(8)
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=6)
    ):
        data[at % len(data)] = value
    return bytes(data[: draw(st.integers(0, len(data)))])


@pytest.mark.parametrize("protocol", BARE)
@given(data=st.data())
def test_any_bytes_are_ranges_of_the_format_or_faults(protocol, data):
    buffer, wire_format = data.draw(spoilt(protocol)), wire.get(protocol)
    words = np.zeros(-(-len(buffer) // 8), np.uint64)
    words.view(np.uint8)[: len(buffer)] = np.frombuffer(buffer, np.uint8)
    ranges, fault = np.zeros((4 * len(buffer) + 1, 2), np.int64), np.zeros(1, faults.FAULTS)
    n = decode(int(wire_format.decoding), words, len(buffer), ranges, fault)
    assert 0 <= n <= 4 * len(buffer)
    assert (ranges[:n, 0] >= 0).all()
    assert (ranges[:n, 1] > 0).all()
    assert (ranges[:n].sum(axis=1) <= 2 * wire_format.pfn_limit).all()
    found = faults.logged(fault)
    assert all(0 <= at <= len(buffer) for _, _, at in found.tolist())
    if n == 0 and any(buffer) and protocol != "bitmap-v3":  # whose bitmap may be empty
        assert fault[0]["counts"].sum() > 0


@given(pages=page_sets())
def test_adaptive_decodes_as_its_twin_does(pages):
    stream = wire.encode(pages, "adaptive")
    ranges = wire.decode(stream, "adaptive")
    assert ranges.tolist() == [r for buffer in stream for r in naive.decode_adaptive(buffer)]
    assert sorted(told(ranges).tolist()) == sorted(pages)


@given(st.lists(words(), min_size=1, max_size=9), st.integers(0, 2**20))
def test_a_plan_is_the_shortest_of_all_ways(bitmap, first_word):
    words = np.array(bitmap, np.uint64)
    there = np.flatnonzero(words)
    words[there[6:]] = 0
    assert planned(words, first_word) == naive.fewest_bytes(words.tolist())
    assert naive.fewest_bytes(words) == naive.fewest_bytes_by_walking(words)


@pytest.mark.slow_interpreted
def test_the_heads_of_a_very_long_run_stay_within_the_area():
    n_short, n_full, room = 86, 45 * adaptive.MOST_RUN // 64, 512
    words = np.full(n_short + n_full, 2**64 - 1, np.uint64)
    words[:n_short] = 1
    chosen = np.full(words.size, adaptive_plan.RUN, np.uint8)
    chosen[: n_short + 1] |= adaptive_plan.NEW
    area = np.full(2 * room, 0xABCD, np.uint16)
    state, found, more = np.zeros(1, encode.STATE)[0], [], True
    while more:
        more = adaptive.fill_segments(words, 0, chosen, state, area[:room])
        n_units = adaptive.close_segments(state, area[:room])
        found += naive.decode_adaptive(area[:n_units].tobytes())
        assert (area[room:] == 0xABCD).all()
    assert found[:n_short] == [(64 * i, 1) for i in range(n_short)]
    starts, lengths = np.array(found[n_short:]).T
    assert starts[0] == 64 * n_short
    assert (starts[1:] == (starts + lengths)[:-1]).all()
    assert lengths.sum() == 64 * n_full


def planned(words, first_word):
    """Bytes of a plan, which are those of the message."""
    chosen = np.zeros(words.size, np.uint8)
    fewest = adaptive_plan.plan(words, 64 * first_word, chosen)
    stream = split([(64 * first_word, words)], Encoding.SEGMENTS)[0]
    listed = (chosen[words != 0] & 7 == adaptive_plan.PFNS).any()
    assert sum(map(len, stream)) == fewest + (adaptive_plan.HEAD_BYTES if listed else 0)
    return fewest


STRETCHES = st.sampled_from([1, 2, 3, 4, 5, 30, 1020, 1024, 1030])  # about what 16 bits reach


@given(st.lists(st.tuples(words(), STRETCHES), min_size=1, max_size=9), st.integers(0, 2**20))
def test_a_plan_goes_on_along_full_words_as_its_twin_does(stretches, first_word):
    """Every second stretch is of full words, the others of few alike."""
    parts = [
        np.full(times if k % 2 else min(times, 5), 2**64 - 1 if k % 2 else word, np.uint64)
        for k, (word, times) in enumerate(stretches)
    ]
    words = np.concatenate(parts)
    assert planned(words, first_word) == naive.fewest_bytes_by_walking(words)


@st.composite
def many_windows(draw):
    """A few pages in each of many bitmaps of 32 GiB."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    n_windows, n_pages = draw(st.integers(2, 60)), draw(st.integers(1, 25))
    pages = rng.integers(0, 1 << 23, (n_windows, n_pages)) + (np.arange(n_windows) << 23)[:, None]
    return np.unique(pages).tolist()


def never_beaten(pages):
    sizes = {name: sum(map(len, wire.encode(pages, name))) for name in FAITHFUL}
    return sizes["adaptive"] <= 1.05 * min(sizes.values()) + 64


@given(pages=st.one_of(page_sets(), strewn_pages()))
def test_adaptive_is_never_beaten(pages):
    assert never_beaten(pages)


@pytest.mark.slow_interpreted  # a walk along the bitmap of every window, by every format
@given(pages=many_windows())
def test_adaptive_is_never_beaten_in_many_windows(pages):
    assert never_beaten(pages)


@given(pages=page_sets())
def test_pfn_keeps_the_order_of_the_list(pages):
    assert told(wire.decode(wire.encode(pages, "pfn"), "pfn")).tolist() == pages


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.97])
def test_many_buffers_follow_the_flush_rule(rng, density):
    pages = (np.flatnonzero(rng.random(700_000) < density) + 77).tolist()
    stream = wire.encode(pages, "bitmap-v4")
    assert len(stream) > 1
    assert stream == naive.encode_bitmap_v4(pages)
    assert max(len(buffer) for buffer in stream) <= 8 + 8 * 4096


@pytest.mark.slow_interpreted
def test_windows_of_32_gib_end_a_buffer():
    window = 32 * 262_144
    pages = [5, window - 1, window + 3, 2 * window + 64, 7 * window]
    stream = wire.encode(pages, "bitmap-v4")
    assert len(stream) == 4
    assert stream == naive.encode_bitmap_v4(pages)


@pytest.mark.parametrize("page", [0, 1, 63, 64, 4096, 2**32, 2**52 - 64, 2**52 - 1])
def test_a_single_page_is_told_wherever_it_is(page):
    ranges = wire.decode(wire.encode([page], "bitmap-v4"), "bitmap-v4")
    assert ranges.tolist() == [(page, 1)]


def test_pages_strewn_over_all_page_numbers_need_no_huge_bitmap():
    pages = np.array([2**52 - 1, 3, 2**40, 2**40 + 1, 2**51], np.uint64)
    ranges = wire.decode(wire.encode(pages, "bitmap-v4"), "bitmap-v4")
    assert ranges.tolist() == [(3, 1), (2**40, 2), (2**51, 1), (2**52 - 1, 1)]


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("gib", [33, 100, 1024])
def test_memory_beyond_one_window_is_told_once_each(gib):
    """Page sets only: long runs in every gigabyte, strewn pages, and both ends of memory."""
    rng = np.random.default_rng(gib)
    starts = rng.integers(0, gib * 262_144 - 5000, 2 * gib)
    runs = [np.arange(start, start + rng.integers(1, 5000)) for start in starts]
    strewn = rng.integers(0, gib * 262_144, 50_000)
    pages = np.unique(np.concatenate([*runs, strewn, [0, gib * 262_144 - 1]]))
    for order in (pages, pages[::-1], rng.permutation(pages)):
        stream = wire.encode(order, "bitmap-v4")
        assert np.array_equal(np.sort(told(wire.decode(stream, "bitmap-v4"))), pages)
        assert sum(map(len, stream)) <= 16 * pages.size + 8 * len(stream)


def test_an_empty_balloon_has_no_buffers():
    for protocol in FAITHFUL:
        assert wire.encode([], protocol) == []
        assert wire.decode([], protocol).tolist() == []


@pytest.mark.slow_interpreted
def test_the_headline_takes_one_kick_instead_of_7168():
    pages = patterns.idle("8GiB", "7GiB")
    assert len(wire.encode(pages, "pfn")) == 7168
    (buffer,) = wire.encode(pages, "bitmap-v4")
    assert buffer.hex().startswith("0000000068000000")
    assert np.array_equal(np.sort(told(wire.decode([buffer], "bitmap-v4"))), np.sort(pages))


@given(words=st.lists(st.integers(0, 2**64 - 1), max_size=7), start=st.integers(0, 2**40))
def test_records_of_several_words_are_understood(words, start):
    """The width of bmap_len admits 7 words; the driver as posted sends one."""
    records = naive.head(start, 12, 8 * len(words))
    records += b"".join(word.to_bytes(8, "little") for word in words)
    buffer = (len(records) << 32).to_bytes(8, "little") + records
    assert wire.decode([buffer], "bitmap-v4").tolist() == naive.decode_bitmap_v4(buffer)


HEADER = (8 << 32).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("buffer", "words"),
    [
        (b"", "too short"),
        (HEADER[:7], "too short"),
        (b"\x01" + HEADER[1:] + naive.head(1, 12, 0), "cmd"),
        (HEADER, "data_len"),
        ((4 << 32).to_bytes(8, "little") + bytes(8), "data_len"),
        (HEADER + naive.head(1, 11, 0), "page_shift"),
        (HEADER + naive.head(1, 12, 4), "bmap_len"),
        (HEADER + naive.head(1, 12, 8), "bmap_len"),
        ((16 << 32).to_bytes(8, "little") + naive.head(1, 13, 8) + bytes(8), "page_shift"),
        (HEADER + naive.head(2**52 - 1, 13, 0), "beyond the page numbers"),
    ],
)
def test_decode_names_the_broken_rule(buffer, words):
    with pytest.raises(ValueError, match=words):
        wire.decode([buffer], "bitmap-v4")


def test_the_largest_block_is_2_to_the_51_pages():
    buffer = HEADER + naive.head(1, 63, 0)
    assert wire.decode([buffer], "bitmap-v4").tolist() == [(1, 2**51)]


KINDS = {
    "length": faults.BUFFER_LENGTH,
    "cmd": faults.COMMAND,
    "data_len": faults.DATA_LEN,
    "bmap_len": faults.BMAP_LEN,
    "page_shift": faults.PAGE_SHIFT,
    "range": faults.RECORD_RANGE,
}


@st.composite
def hostile_buffers(draw):
    """Buffers near the format: plausible heads and bitmaps, cut or spoilt anywhere."""
    word = st.one_of(
        st.builds(
            lambda start, shift, length: start | shift << 52 | length << 58,
            st.one_of(st.integers(0, 2**52 - 1), st.just(2**52 - 1), st.integers(0, 99)),
            st.one_of(st.just(12), st.integers(0, 63)),
            st.one_of(st.sampled_from([0, 8, 16, 56]), st.integers(0, 63)),
        ),
        st.integers(0, 2**64 - 1),
    )
    words = draw(st.lists(word, max_size=10))
    data = b"".join(value.to_bytes(8, "little") for value in words)
    data_len = draw(st.one_of(st.just(len(data)), st.integers(0, 2**32 - 1), st.integers(0, 99)))
    cmd = draw(st.sampled_from([0, 0, 0, 0, 7]))
    buffer = bytes([cmd, 0, 0, 0]) + data_len.to_bytes(4, "little") + data
    return buffer[: draw(st.one_of(st.just(len(buffer)), st.integers(0, len(buffer))))]


@given(buffer=hostile_buffers())
def test_hostile_records_are_counted_by_kind_and_the_rest_is_decoded(buffer):
    words = np.full(len(buffer) // 8 + 1, 0xABABABABABABABAB, np.uint64)
    words.view(np.uint8)[: len(buffer)] = np.frombuffer(buffer, np.uint8)
    ranges = np.zeros((4 * max(len(buffer), 1), 2), np.int64)
    fault = np.zeros(1, faults.FAULTS)
    n = decode_records(words, len(buffer), ranges, fault)
    expected, kinds = naive.decode_hostile(buffer)
    assert [tuple(row) for row in ranges[:n].tolist()] == expected
    counts = np.bincount([KINDS[kind] for kind in kinds], minlength=faults.N_FAULTS)
    assert fault[0]["counts"].tolist() == counts.tolist()
    assert faults.logged(fault)[:, 1].tolist() == [KINDS[kind] for kind in kinds]


@given(pages=page_sets())
def test_max_kicks_is_an_upper_bound(pages):
    span = max(pages, default=0) + 1
    for protocol in FAITHFUL:
        kicks = len(wire.encode(pages, protocol))
        assert kicks <= wire.get(protocol).max_kicks(len(pages), span)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("step", [1, 2, 3, 64, 65, 128, 8 * 262_144])
def test_max_kicks_holds_for_scattered_pages(step):
    pages = np.arange(200_000 if step < 1000 else 40, dtype=np.uint64) * np.uint64(step)
    for protocol in FAITHFUL:
        kicks = len(wire.encode(pages, protocol))
        assert kicks <= wire.get(protocol).max_kicks(pages.size, int(pages[-1]) + 1)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, in plain Python only
@pytest.mark.parametrize("first", [2**40, 1000, 0])
@pytest.mark.parametrize("step", [1, -1])
def test_page_numbers_that_wrap_around_are_refused(first, step):
    wrapped = np.arange(64, dtype=np.uint64) - np.uint64(32)
    pages = np.r_[np.arange(first, first + 64, dtype=np.uint64), wrapped[::step]]
    for call in (wire.pack, lambda p: wire.encode(p, "bitmap-v4"), lambda p: wire.encode(p, "pfn")):
        with pytest.raises(ValueError, match="below 2"):
            call(pages)
        with pytest.raises(ValueError, match="below 2"):
            call(wrapped[::step])


def test_decode_names_the_buffer_and_the_byte():
    good = wire.encode([1], "bitmap-v4")[0]
    bad = (16 << 32).to_bytes(8, "little") + naive.head(1, 12, 0) + naive.head(9, 3, 0)
    with pytest.raises(ValueError, match=r"buffer 1 .* byte 16 of 24"):
        wire.decode([good, bad], "bitmap-v4")
    with pytest.raises(ValueError, match="whole number of entries"):
        wire.decode([b"\x01\x00\x00\x00\x02"], "pfn")


@pytest.mark.parametrize("protocol", TWINS)
@pytest.mark.parametrize(
    ("pages", "error", "words"),
    [
        ([1, 2, 1], ValueError, "of 2 pages 1 come more than once, the first is 1;"),
        ([2**50, 5, 2**50], ValueError, "repeat"),
        ([-1], ValueError, "negative"),
        ([1.5], TypeError, "integers"),
        ([[1, 2]], ValueError, "one dimension"),
        ([2**52], ValueError, "below 2"),
    ],
)
def test_encode_refuses(protocol, pages, error, words):
    if protocol in ("pfn", "cont-pages") and max(np.ravel(pages)) >= 2**32:
        words = r"2\*\*32"
    with pytest.raises(error, match=words):
        wire.encode(pages, protocol)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"pfn, bitmap-v4, .*, got 'bitmap-v9'"):
        wire.encode([1], "bitmap-v9")
    with pytest.raises(ValueError, match=r"below 2\*\*52"):
        wire.encode([2**52], "bitmap-v4-posted")
    with pytest.raises(TypeError, match="put a single buffer in a list"):
        wire.decode(b"1234", "pfn")


def test_any_integer_type_and_layout_will_do():
    expected = wire.encode([1, 3, 5], "bitmap-v4")
    for dtype in (np.int16, np.uint32, np.int64, np.uint64):
        assert wire.encode(np.array([1, 3, 5], dtype), "bitmap-v4") == expected
    strided = np.arange(10, dtype=np.uint64)[1:6:2]
    strided.flags.writeable = False
    assert wire.encode(strided, "bitmap-v4") == expected
