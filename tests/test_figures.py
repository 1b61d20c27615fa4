"""The figure of a message draws what the buffers hold, and counts what the host does."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab.address_map import HIGH_RAM_START, LOW_RAM_END
from balloonlab.figures.how_it_works import MAX_WORDS
from balloonlab.figures.lines import median_interval
from balloonlab.model.accounting import COUNTS

from . import naive

RAGGED = range(100, 500)
SPAN = 64 * MAX_WORDS


@pytest.fixture
def closed():
    """Closes what a test has drawn."""
    yield
    plt.close("all")


@st.composite
def small_sets(draw):
    """Pages that fit the figure: runs, single pages, at word borders and in any order."""
    base = 64 * draw(st.sampled_from([0, 1, 15, 16_384, (1 << 26) - MAX_WORDS]))
    edge = st.one_of(st.integers(0, SPAN), st.integers(0, MAX_WORDS).map(lambda word: 64 * word))
    pages = set(draw(st.lists(st.integers(0, SPAN - 1), min_size=1, max_size=8)))
    for start, end in draw(st.lists(st.tuples(edge, edge), max_size=4)):
        pages |= set(range(start, end))
    return draw(st.permutations([base + page for page in sorted(pages)]))


def told(records):
    """Pages of each record in turn, by the plain reading of its bits."""
    for row in records.itertuples():
        bits = int.from_bytes(row.bitmap, "little")
        block = range(row.start_pfn, row.start_pfn + row.span_pages)
        yield [page for i, page in enumerate(block) if row.kind == "block" or bits >> i & 1]


def boxes(ax, *labels):
    """(first page, pages) of the boxes that bear one of these labels, as drawn."""
    return [
        (round(box.get_x()), round(box.get_width()))
        for container in ax.containers
        if container.get_label() in labels
        for box in container
    ]


def dark(lane):
    """Pages or bits drawn as set in a lane."""
    ends = [path.vertices[:, 0] for path in lane.get_paths()]
    return [page for x in ends for page in range(round(x.min()), round(x.max()))]


def texts(ax):
    return [text.get_text() for text in ax.texts]


@given(pages=small_sets())
def test_records_tell_each_page_once_and_fill_the_message(pages):
    stream = bl.wire.encode(pages, "bitmap-v4")
    records = bl.wire.records(stream)
    assert sorted(page for part in told(records) for page in part) == sorted(pages)
    assert records["n_pages"].tolist() == [len(part) for part in told(records)]
    assert records["wire_bytes"].sum() + 8 * len(stream) == sum(map(len, stream))
    assert set(records["kind"] + records["wire_bytes"].astype(str)) <= {"word16", "block8"}


def test_a_ragged_run_is_head_word_then_tail_word_then_blocks():
    records = bl.wire.records(bl.wire.encode(RAGGED, "bitmap-v4"))
    assert records["kind"].tolist() == ["word", "word", "block", "block"]
    assert records["start_pfn"].tolist() == [64, 448, 128, 384]
    assert records["n_pages"].tolist() == [28, 52, 256, 64]


def test_records_of_several_buffers_are_told_apart():
    pages = np.arange(0, 700_000, 64)
    stream = bl.wire.encode(pages, "bitmap-v4")
    records = bl.wire.records(iter(stream))
    assert records["kick"].unique().tolist() == list(range(1, len(stream) + 1))
    assert len(stream) > 1
    assert records["start_pfn"].tolist() == pages.tolist()


def test_records_of_several_words_are_read():
    """The width of bmap_len admits 7 words; the driver as posted sends one."""
    bitmap = bytes(range(24))
    data = naive.head(640, 12, 24) + bitmap + naive.head(7, 13, 0)
    records = bl.wire.records([(len(data) << 32).to_bytes(8, "little") + data])
    assert records["span_pages"].tolist() == [192, 2]
    assert records["wire_bytes"].tolist() == [32, 8]
    assert records["bitmap"].tolist() == [bitmap, b""]
    assert list(told(records))[1] == [7, 8]


def test_a_broken_buffer_is_refused_with_its_rule():
    (buffer,) = bl.wire.encode(RAGGED, "bitmap-v4")
    with pytest.raises(ValueError, match=r"buffer 0 .* data_len"):
        bl.wire.records([buffer[:-1]])


@given(pages=small_sets())
def test_discards_cover_each_page_once(pages):
    for protocol in ("pfn", "bitmap-v4"):
        calls = bl.model.discards(bl.wire.encode(pages, protocol), protocol)
        assert calls.dtype == bl.wire.RANGE
        covered = [page for start, n in calls.tolist() for page in range(start, start + n)]
        assert sorted(covered) == sorted(pages)
        assert protocol == "bitmap-v4" or covered == list(pages)


def test_a_range_joins_the_one_told_before_it():
    calls = bl.model.discards(bl.wire.encode(RAGGED, "bitmap-v4"), "bitmap-v4")
    assert calls.tolist() == [(100, 28), (448, 52), (128, 320)]


@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
def test_discards_reach_over_the_hole_as_in_the_hosts_mapping(protocol):
    low, high = LOW_RAM_END - 1, HIGH_RAM_START
    across = bl.model.discards(bl.wire.encode([low, high, high + 9], protocol), protocol)
    joined = [(low, 2), (high + 9, 1)]
    assert across.tolist() == (
        joined if protocol == "bitmap-v4" else [(low, 1), (high, 1), (high + 9, 1)]
    )
    inside = bl.model.discards(bl.wire.encode([low, low + 1, high - 1, high], protocol), protocol)
    assert [start for start, _ in inside.tolist()] == [low, low + 1, high - 1, high]


def test_pages_beyond_any_host_are_refused():
    with pytest.raises(ValueError, match=r"below 2\*\*32"):
        bl.model.discards(bl.wire.encode([2**51], "bitmap-v4"), "bitmap-v4")


def test_no_message_makes_no_discards():
    for protocol in ("pfn", "bitmap-v4"):
        assert bl.model.discards([], protocol).tolist() == []


@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
def test_messages_counts_what_the_device_does(protocol):
    pages = bl.patterns.random("16MiB", "8MiB")
    counts = bl.model.messages(pages).loc[protocol]
    run = bl.measure("16MiB", "8MiB", protocol=protocol, pattern=pages, repeats=1, progress=False)
    measured = run.frame[["n_kicks", "wire_bytes", "n_records", "n_discards"]].iloc[0]
    names = ["kicks", "wire bytes", "records", "madvise calls"]
    assert counts[names].tolist() == measured.tolist()
    assert bl.model.counts(pages, protocol) == run.frame[list(COUNTS)].iloc[0].to_dict()
    assert counts["ranges"] == len(bl.wire.decode(bl.wire.encode(pages, protocol), protocol))


def test_the_messages_of_no_pages_are_nothing():
    assert (bl.model.messages([]) == 0).all(axis=None)


@given(pages=small_sets())
def test_counts_are_those_of_the_message(pages):
    table = bl.model.messages(pages)
    for protocol in ("pfn", "bitmap-v4"):
        found = bl.model.counts(pages, protocol)
        names = ["n_kicks", "wire_bytes", "n_records", "n_translations", "n_discards"]
        assert [found[name] for name in names] == table.loc[protocol].tolist()
        assert found["n_pages"] == len(pages)


@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
@pytest.mark.parametrize(
    ("memory", "balloon"),
    [("4KiB", 0), ("16MiB", None), (4096 * 4999, 4096 * 4321), (4096 * 9999, 4096)],
)
def test_an_idle_guest_is_counted_without_its_pages(memory, balloon, protocol):
    share = bl.sizes.parse_size(memory) * 7 // 8 if balloon is None else balloon
    pages = bl.patterns.idle(memory, share)
    assert bl.model.idle_counts(memory, protocol, balloon) == bl.model.counts(pages, protocol)


@pytest.mark.once
@pytest.mark.parametrize("memory", ["5GiB", "40GiB"])
def test_an_idle_guest_of_several_pieces_and_windows_is_counted(memory):
    pages = bl.patterns.idle(memory, bl.sizes.parse_size(memory) // 8 * 7)
    assert bl.model.idle_counts(memory, "bitmap-v4") == bl.model.counts(pages, "bitmap-v4")


def test_page_numbers_of_32_bits_end_below_20_tib():
    assert bl.model.idle_counts("16TiB", "pfn")["wire_bytes"] == 14 << 30
    with pytest.raises(ValueError, match="use 'bitmap-v4'"):
        bl.model.idle_counts("20TiB", "pfn")
    with pytest.raises(ValueError, match="must be pfn or bitmap-v4"):
        bl.model.counts([1], "bitmap-v4-posted")


@settings(max_examples=15)
@given(pages=small_sets())
def test_the_figure_draws_the_records_and_the_discards(pages):
    ax = bl.figures.page_strip(pages)
    stream = bl.wire.encode(pages, "bitmap-v4")
    records = bl.wire.records(stream)
    drawn = boxes(ax, "word", "block")
    assert drawn == list(zip(records["start_pfn"], records["span_pages"], strict=True))
    labels = [text.get_text() for text in ax.get_yticklabels()]
    numbers = [label.split(":")[0] for label in labels if ":" in label]
    assert numbers == [str(number) for number in records.index]
    for protocol in ("pfn", "bitmap-v4"):
        calls = bl.model.discards(bl.wire.encode(pages, protocol), protocol)
        assert boxes(ax, protocol) == calls.tolist()
    plt.close(ax.figure)


@settings(max_examples=15)
@given(pages=small_sets())
def test_the_pages_drawn_are_the_pages_given(pages):
    ax = bl.figures.page_strip(pages)
    memory, bits, *words = ax.collections
    assert dark(memory) == dark(bits) == sorted(pages)
    told_in_words = [page for word in words for page in dark(word)]
    told_in_blocks = [page for start, n in boxes(ax, "block") for page in range(start, start + n)]
    assert sorted(told_in_words + told_in_blocks) == sorted(pages)
    plt.close(ax.figure)


def test_words_are_full_mixed_or_empty(closed):
    ax = bl.figures.page_strip([*range(64), 70, 71, *range(192, 256)])
    assert [text for text in texts(ax) if re.fullmatch(r"full|empty|\d+/64", text)] == [
        "full",
        "2/64",
        "empty",
        "full",
    ]


def test_the_headings_hold_the_counts_of_both_formats(closed):
    headings = " ".join(texts(bl.figures.page_strip(RAGGED)))
    counts = bl.model.messages(RAGGED)
    for protocol in ("pfn", "bitmap-v4"):
        row = counts.loc[protocol]
        assert f"{row['wire bytes']:,} bytes" in headings
        assert f"{row['madvise calls']} madvise calls" in headings
    assert f"then {counts.loc['bitmap-v4', 'records']} records" in headings
    assert f"{counts.loc['pfn', 'kicks']} kicks" in headings


def test_the_figure_is_drawn_on_the_axes_it_is_given_with_a_labelled_axis(closed):
    _, mine = plt.subplots()
    assert bl.figures.page_strip(RAGGED, ax=mine) is mine
    assert mine.get_xlabel().startswith("guest page number")
    assert [text.get_text() for text in mine.get_xticklabels()] == [
        str(pfn) for pfn in range(64, 513, 64)
    ]


def test_long_page_numbers_are_told_from_the_first_on(closed):
    ax = bl.figures.page_strip([2**31, 2**31 + 64])
    assert f"from {2**31} on" in ax.get_xlabel()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["+0", "+64", "+128"]


@pytest.mark.parametrize(
    ("pages", "error", "words"),
    [
        ([], ValueError, "at least one page"),
        ([0, SPAN], ValueError, "got 9 words .pages 0 to 512.: draw a part"),
        ([63, 64 * MAX_WORDS], ValueError, "got 9 words"),
        ([5, 5], ValueError, "must not repeat"),
        ([-1], ValueError, "negative"),
        ([1.5], TypeError, "integers"),
        ([2**32], ValueError, r"below 2\*\*32"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_a_figure_is_made(pages, error, words):
    before = plt.get_fignums()
    with pytest.raises(error, match=words):
        bl.figures.page_strip(pages)
    assert plt.get_fignums() == before


def test_the_same_strip_gives_the_same_bytes(tmp_path, closed):
    for name in ("a", "b"):
        ax = bl.figures.page_strip(RAGGED)
        bl.figures.save(ax, tmp_path / name)
    for ending in ("svg", "png"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def timings(ms, **columns):
    """A tidy frame of two stages, two protocols and two sizes, each time known."""
    rows = [
        {"source": "lab", "protocol": protocol, "memory_bytes": size, "run_id": f"{protocol}{size}"}
        | {"repeat": repeat, "stage": stage, "time_ns": ms * size * factor * 1e6 / 2, **columns}
        for protocol, factor in (("pfn", 10), ("bitmap-v4", 1))
        for size in (1024, 2048)
        for repeat in range(3)
        for stage in ("send", "discard")
    ]
    return pd.DataFrame(rows)


def test_scaling_draws_medians_by_series(closed):
    ax = bl.figures.scaling(timings(1), title="known")
    (pfn, *_), (bitmap, *_) = ax.containers
    assert pfn.get_xydata().tolist() == [[1024, 10240], [2048, 20480]]
    assert bitmap.get_xydata().tolist() == [[1024, 1024], [2048, 2048]]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["lab, pfn", "lab, bitmap-v4"]
    half = bl.figures.scaling(timings(1), stage="send").containers[1][0]
    assert half.get_ydata().tolist() == [512, 1024]
    with pytest.raises(ValueError, match="several cases for source, memory_bytes = "):
        bl.figures.scaling(timings(1), series=["source"])
    with pytest.raises(ValueError, match="columns steps"):
        bl.figures.scaling(timings(1), x="steps")
    with pytest.raises(ValueError, match="rows of stage 'allocate'"):
        bl.figures.scaling(timings(1), stage="allocate")


def test_the_interval_of_a_median_holds_it():
    low, middle, high = median_interval([5, 1, 2, 9, 3])
    assert (low, middle, high) == (1, 3, 9)
    assert median_interval([4.0]) == (4, 4, 4)


@pytest.mark.parametrize(
    ("y", "expected"), [("n_kicks", [7, 7]), ("rate", [500, 250]), ("page_ns", [1e9, 2e9])]
)
def test_scaling_draws_counts_and_rates(closed, y, expected):
    frame = timings(1, n_kicks=7, balloon_bytes=512 << 30, n_pages=1.024)
    drawn = bl.figures.scaling(frame, y=y).containers[1][0].get_ydata()
    assert drawn.tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"y must be one of time_ns, .* got 'speed'"):
        bl.figures.scaling(frame, y="speed")


def test_many_sizes_are_not_all_named(closed):
    frame = pd.concat([timings(1).assign(memory_bytes=2 << n, run_id=str(n)) for n in range(12)])
    frame["run_id"] += frame["protocol"]
    frame = frame.drop_duplicates(["run_id", "repeat", "stage"])
    ax = bl.figures.scaling(frame)
    assert [tick.get_text() for tick in ax.get_xticklabels()][:3] == ["2 B", "8 B", "32 B"]


def test_panels_are_axes_row_by_row(closed):
    axes = bl.figures.panels(2, 3)
    assert len(axes) == 6
    assert axes[0].get_figure() is axes[5].get_figure()
    assert not axes[0].spines["top"].get_visible()


def test_stages_stacks_medians_and_names_each_case(closed):
    frame = timings(1, touched=True, discard="page").query("memory_bytes == 1024")
    ax = bl.figures.stages(frame, title="known")
    widths = [bar.get_width() for bars in ax.containers for bar in getattr(bars, "patches", [])]
    assert widths == pytest.approx([5120, 5120, 512, 512])
    assert [text.get_text() for text in ax.texts] == ["10,240 ms", "1,024 ms"]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["touched, pfn, by page", "touched, bitmap-v4, by page"]
    assert ax.get_title(loc="left") + ax.get_title() == "known (lab)"
    with pytest.raises(ValueError, match="several cases for protocol = "):
        bl.figures.stages(timings(1), by=["protocol"])
    with pytest.raises(ValueError, match="columns touched, protocol, discard"):
        bl.figures.stages(timings(1))


@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
def test_the_timeline_is_one_sequence_of_both_ends(closed, protocol):
    frame = bl.timeline(memory="8MiB", balloon="4MiB", protocol=protocol)
    assert frame.attrs["protocol"] == protocol
    assert frame["begin_ns"].min() == 0
    assert (frame["end_ns"] >= frame["begin_ns"]).all()
    for _, lane in frame.groupby("end"):
        assert (lane["begin_ns"].to_numpy()[1:] >= lane["end_ns"].to_numpy()[:-1]).all()
    trips = frame[frame["stage"] == "round trip"]
    host = frame[frame["end"] == "host"]
    assert len(trips) == (4 if protocol == "pfn" else 1)
    assert host["begin_ns"].min() >= trips["begin_ns"].min()
    assert host["end_ns"].max() <= trips["end_ns"].max()
    ax = bl.figures.timeline(frame)
    lanes = [text.get_text() for text in ax.get_yticklabels()]
    assert lanes[0] == "guest: allocate"
    assert lanes[-1] == "host: discard"
    first = bl.figures.timeline(frame, until_us=0.1)
    assert len(first.get_yticklabels()) == 1
    with pytest.raises(TypeError, match="unknown argument colour"):
        bl.timeline(colour="red", progress=False)
    with pytest.raises(ValueError, match="until_us must be above"):
        bl.figures.timeline(frame, until_us=0)
