"""Figures draw what the frame, the message or the page set holds, on whatever Axes."""

import re
import resource

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, settings

import balloonlab as bl
from balloonlab.figures.how_it_works import MAX_WORDS
from balloonlab.sizes import format_measured, format_number

from .strategies import few_words

pytestmark = [pytest.mark.once, pytest.mark.libraries]

RAGGED = range(100, 500)
SPAN = 64 * MAX_WORDS


@pytest.fixture
def closed():
    """Closes what a test has drawn."""
    yield
    plt.close("all")


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


@settings(max_examples=15)
@given(pages=few_words())
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
@given(pages=few_words())
def test_the_pages_drawn_are_the_pages_given(pages):
    ax = bl.figures.page_strip(pages)
    memory, bits, *words = ax.collections
    assert dark(memory) == dark(bits) == sorted(pages)
    in_words = [page for word in words for page in dark(word)]
    in_blocks = [page for start, n in boxes(ax, "block") for page in range(start, start + n)]
    assert sorted(in_words + in_blocks) == sorted(pages)
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


def test_long_page_numbers_are_counted_from_the_first_on(closed):
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
    with pytest.raises(ValueError, match="columns time_ns, n_pages"):
        bl.figures.scaling(timings(1).drop(columns="time_ns"), y="page_ns")
    with pytest.raises(ValueError, match="columns repeat"):
        bl.figures.stages(timings(1).drop(columns="repeat"))
    with pytest.raises(ValueError, match="rows of stage 'allocate'"):
        bl.figures.scaling(timings(1), stage="allocate")


def test_scaling_draws_intervals_over_starts(closed):
    """Of three repeats of one the range, of five starts the bootstrap over their medians."""
    frame = timings(1).query("protocol == 'pfn' and memory_bytes == 1024")
    starts = [
        frame.assign(start=n, repeat=frame["repeat"] + 3 * n, time_ns=frame["time_ns"] * times)
        for n, times in enumerate([5, 1, 2, 9, 3])
    ]
    repeats = frame.assign(time_ns=frame["time_ns"] * (1 + frame["repeat"]))
    for rows, expected in ((repeats, [1, 2, 3]), (pd.concat(starts), [1, 3, 9])):
        line, _, (bars,) = bl.figures.scaling(rows).containers[0]
        ((_, low), (_, high)) = bars.get_segments()[0]
        assert [low, *line.get_ydata(), high] == pytest.approx(
            [10240 * times for times in expected]
        )


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


def test_joined_panels_have_a_title_each_and_one_legend(closed):
    run = bl.load(bl.datasets.path("runs"))
    axes = bl.figures.panels(2, 2, size=(4, 3))
    assert axes[0].figure.get_size_inches().tolist() == [8, 6]
    for ax, y in zip(axes, ("page_ns", "n_kicks", "wire_bytes", "n_discards"), strict=True):
        bl.figures.runs(run, y, ax=ax)
    axes[3].set_xlim(1, 10_000)
    titles = ["time", "kicks", "message", "discards"]
    assert bl.figures.join(axes, titles, "By run length") is axes
    assert [ax.get_title(loc="left") for ax in axes] == titles
    assert [ax.get_legend() for ax in axes] == [None] * 4
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "lab, pfn, touched",
        "lab, bitmap-v4, touched",
    ]
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert [bool(ax.get_xlabel()) for ax in axes] == [False, False, True, True]
    with pytest.raises(ValueError, match="titles must be one for each of 4 Axes, got 2"):
        bl.figures.join(axes, titles[:2])


def test_panels_of_bars_are_joined_with_the_legend_of_their_stages(closed):
    frame = bl.load(bl.datasets.path("patterns"))
    axes = bl.figures.panels(2, 1)
    for ax, pattern in zip(axes, ("idle", "random"), strict=True):
        bl.figures.grid(frame, pattern, ax=ax)
    bl.figures.join(axes, ["idle", "random"])
    (legend,) = axes[0].figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["a allocate", "b send", "c translate", "d discard", "remainder"]
    assert axes[0].get_xlim() == axes[1].get_xlim()


def ratio_table(*ends, **columns):
    rows = [dict(zip(("ratio", "low", "high"), end, strict=True)) for end in ends]
    return pd.DataFrame(rows).assign(protocol="pfn", **columns)


def test_ratios_that_overlap_with_the_largest_are_filled(closed):
    table = ratio_table((7, 5, 9), (4, 3, 5), (2.46, 1, 4), pattern=["idle", "random", "huge"])
    ax = bl.figures.ratios(table, title="known")
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert [face == "white" for face in faces] == [False, False, True]
    assert texts(ax) == ["7.0 (5.0 to 9.0)", "4.0 (3.0 to 5.0)", "2.5 (1.0 to 4.0)"]
    assert labels(ax) == ["idle", "random", "huge"]
    sizes = bl.figures.ratios(table.assign(n=[1 << 30, 2 << 30, 3 << 30]), "n")
    assert labels(sizes) == ["1 GiB", "2 GiB", "3 GiB"]
    other = table.assign(protocol=["pfn", "pfn", "bitmap-v4"])
    with pytest.raises(ValueError, match="one protocol, got pfn, bitmap-v4: select one"):
        bl.figures.ratios(other)
    with pytest.raises(ValueError, match="must have rows"):
        bl.figures.ratios(table[:0])


def labels(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_stages_stacks_medians_and_names_each_case(closed):
    frame = timings(1, touched=True, discard="page").query("memory_bytes == 1024")
    ax = bl.figures.stages(frame, ["touched", "protocol", "discard"], title="known")
    widths = [bar.get_width() for bars in ax.containers for bar in getattr(bars, "patches", [])]
    assert widths == pytest.approx([5120, 5120, 512, 512])
    assert texts(ax) == ["10,000 ms", "1,000 ms"]
    assert labels(ax) == ["touched, pfn, by page", "touched, bitmap-v4, by page"]
    assert ax.get_title(loc="left") == "known (lab)"
    with pytest.raises(ValueError, match="several cases for protocol = "):
        bl.figures.stages(timings(1), by=["protocol"])
    with pytest.raises(ValueError, match="must have the columns touched, discard"):
        bl.figures.stages(timings(1), by=["touched", "protocol", "discard"])
    with pytest.raises(ValueError, match="per must be one of operation, GiB, page, got 'day'"):
        bl.figures.stages(frame, per="day")


def test_stages_of_a_sweep_are_sorted_named_and_per_gib(closed):
    frame = timings(1, n_pages=2).assign(discard="page")
    frame["memory_bytes"] *= 1 << 20
    frame["balloon_bytes"] = frame["memory_bytes"] // 2
    shuffled = frame.sample(frac=1, random_state=1)
    ax = bl.figures.stages(shuffled)
    assert labels(ax) == ["1 GiB, pfn", "1 GiB, bitmap-v4", "2 GiB, pfn", "2 GiB, bitmap-v4"]
    assert texts(ax) == ["20,000 ms/GiB", "2,000 ms/GiB"] * 2
    assert ax.get_xlabel().startswith("time per GiB of balloon, ms")
    assert ax.get_title(loc="left") == "Time by stage (lab)"
    per_page = bl.figures.stages(shuffled, per="page")
    assert texts(per_page)[0] == "5,100,000,000 ns"


def test_a_deflation_shows_its_release(closed):
    frame = timings(1).query("memory_bytes == 1024").replace({"stage": {"send": "release"}})
    ax = bl.figures.stages(frame)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a release", "d discard"]
    assert len([bar for bars in ax.containers for bar in getattr(bars, "patches", [])]) == 4


def test_public_names_are_functions_not_modules():
    for part in (bl.figures, bl.model, bl.results, bl.reproduction):
        named = {name: getattr(part, name) for name in part.__all__}
        assert all(callable(value) or name.isupper() for name, value in named.items())


@pytest.mark.parametrize("columns", [1, 2])
def test_nothing_is_cut_off_in_axes_of_the_users_own(closed, columns):
    figure, axes = plt.subplots(1, columns, figsize=(7 * columns, 4.8), squeeze=False)
    frame = timings(1, touched=True, thp=False, discard="page", wait="block", order="as is")
    for ax in axes.flat:
        bl.figures.stages(frame, ["memory_bytes", "touched", "protocol", "discard"], ax=ax)
    figure.draw_without_rendering()
    whole = figure.bbox
    for ax in axes.flat:
        drawn = ax.get_tightbbox()
        assert whole.x0 <= drawn.x0 < drawn.x1 <= whole.x1
        assert whole.y0 <= drawn.y0 < drawn.y1 <= whole.y1
    with pytest.raises(TypeError, match="ax must be one matplotlib Axes, got ndarray"):
        bl.figures.stages(frame, ["memory_bytes", "protocol"], ax=axes)


@pytest.mark.parametrize("layout", ["constrained", None])
def test_texts_fit_narrow_axes_of_the_users_own(closed, layout):
    run = bl.load(bl.datasets.path("headline"))
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout=layout)
    bl.figures.stages(run, title="A title that is long enough to be wrapped " * 3, ax=axes[0])
    bl.figures.headline(run, ax=axes[1])
    figure.draw_without_rendering()
    for ax in axes:
        frame = ax.bbox
        assert figure.bbox.x0 <= ax.get_tightbbox().x0 < ax.get_tightbbox().x1 <= figure.bbox.x1
        assert ax.get_legend().get_window_extent().y0 >= 0
        assert ax.get_legend().get_window_extent().width <= frame.width
        title = next(
            t for t in ax.get_children() if getattr(t, "get_text", str)() == ax.get_title("left")
        )
        assert title.get_window_extent().x1 <= frame.x1 + 1
        assert all(text.get_window_extent().x1 <= frame.x1 for text in ax.texts)
    assert axes[0].get_tightbbox().x1 <= axes[1].get_tightbbox().x0
    assert len(axes[0].get_title("left").splitlines()) > 1


def test_what_is_no_figures_data_is_refused_in_one_sentence(tmp_path):
    run = bl.load(bl.datasets.path("headline"))
    (file := tmp_path / "file").write_text("mine")
    for call, error, words in (
        (lambda: bl.figures.traces(run), TypeError, "sets must map names .*, got Run: pass"),
        (lambda: bl.figures.timeline(run), TypeError, "frame must be a timeline, got Run: pass"),
        (lambda: bl.load_timeline(tmp_path), FileNotFoundError, "folder must hold .*, got .*: "),
        (lambda: bl.totals(run.frame.drop(columns="time_ns")), ValueError, "without time_ns: pass"),
        (lambda: bl.results.write(file, {}), NotADirectoryError, "folder must be .*, got the file"),
    ):
        with pytest.raises(error, match=words):
            call()
    assert file.read_text() == "mine"


def test_the_headline_is_of_the_frames_source_or_of_the_one_that_is_named(closed):
    frames = {name: bl.load(bl.datasets.path(name)).frame for name in ("headline", "qemu")}
    linux = frames["qemu"].assign(source="linux").replace({"protocol": {"reporting": "hinting"}})
    both = pd.concat([frames["headline"], linux])
    names = [
        [label.get_text() for label in ax.get_yticklabels()]
        for ax in (
            bl.figures.headline(linux), bl.figures.headline(both, source="linux"),
            bl.figures.headline(both), bl.figures.headline(frames["headline"]),
            bl.figures.headline(frames["qemu"]), bl.figures.headline(frames["qemu"]),
        )
    ]  # fmt: skip
    assert names[0] == names[1]
    assert [name.split(",")[0] for name in names[0]] == ["paper"] * 2 + ["lab"] * 5 + ["linux"] * 4
    assert names[0][-1] == "linux, touched: hinting"
    assert names[2] == names[3] == names[0][:7]
    assert names[4] == names[5]
    with pytest.raises(
        ValueError, match="source must be one of lab, kvm, qemu, linux, got 'linus'; "
    ):
        bl.figures.headline(linux, source="linus")
    with pytest.raises(ValueError, match="cases of source 'lab', got only those of linux"):
        bl.figures.headline(linux, source="lab")


def test_balloons_of_different_sizes_are_drawn_per_gib(closed):
    frame = bl.load(bl.datasets.path("qemu")).frame
    more = frame["protocol"] == "reporting"
    frame.loc[more, "balloon_bytes"] += 4 << 20
    ax = bl.figures.headline(frame)
    assert ax.get_xlabel().startswith("time per GiB of balloon, ms (lab, qemu: ")
    assert ax.get_title(loc="left").startswith("Inflating 7 GiB of 8 GiB")
    assert texts(ax)[0] == "589 ms/GiB"


def test_the_headline_of_another_size_is_per_gib_as_the_papers(closed):
    frame = bl.load(bl.datasets.path("headline")).frame
    whole = bl.figures.headline(frame)
    assert whole.get_xlabel().startswith("time of the inflation, ms")
    assert texts(whole)[0] == "4,126 ms"
    scaled = frame.assign(**{name: frame[name] / 64 for name in ("balloon_bytes", "time_ns")})
    small = bl.figures.headline(scaled)
    assert small.get_xlabel().startswith("time per GiB of balloon, ms")
    assert texts(small)[0] == "589 ms/GiB"
    shares = [[bar.get_width() for c in ax.containers for bar in c] for ax in (whole, small)]
    assert [7 * width for width in shares[1]] == pytest.approx(shares[0])


def test_the_headline_has_a_panel_per_page_where_it_is_a_figure_of_its_own(closed):
    run = bl.reproduction.Reproduction.load(bl.datasets.path("headline"))
    ax = bl.figures.headline(run)
    _, pages = ax.figure.axes
    assert pages.get_xscale() == "log"
    table = run.table()
    ns = 1e6 * table.loc["total, ms"] / (7 << 18)
    drawn = [float(line.get_xdata()[0]) for line in pages.lines if line.get_marker() == "o"]
    assert drawn == pytest.approx(ns.tolist())
    published, measured = table.loc["total, ms"][:2], table.loc["total, ms"][2:]
    assert texts(ax)[:2] == [f"{format_number(ms)} ms" for ms in published]
    assert texts(ax)[2:] == [f"{format_measured(ms)} ms" for ms in measured]
    ranges = [line.get_xdata() for line in pages.lines if line.get_marker() == "|"]
    assert len(ranges) == len(ns)
    assert all(low <= middle <= high for (low, high), middle in zip(ranges, drawn, strict=True))
    times = [re.search(r"ns(?:  (.*))?$", text)[1] for text in texts(pages)]
    assert [time is None for time in times] == [name[1] == "pfn" for name in table]
    assert times[1] == "7.0x"  # published once
    least, most = re.fullmatch(r"(\S+)(?: to (\S+))?x", times[3]).groups()
    ratio = ns["lab, untouched", "pfn"] / ns["lab, untouched", "bitmap-v4"]
    assert float(least) * 0.95 <= ratio <= float(most or least) * 1.05
    assert len(bl.figures.headline(run, ax=plt.subplots()[1]).figure.axes) == 1


def test_figures_take_a_run_and_name_what_else_they_got(closed):
    run = bl.load(bl.datasets.path("sizes"))
    assert bl.figures.sizes(run).get_title() == bl.figures.sizes(run.frame).get_title()
    costs = [bl.model.fit(data, n_draws=2).costs for data in (run, run.frame)]
    assert costs[0].drop(columns="group").equals(costs[1].drop(columns="group"))
    assert costs[1]["group"].str.startswith("machine=unknown, unknown,").all()  # a frame says none
    for function in (bl.figures.stages, bl.figures.density, bl.figures.headline, bl.model.fit):
        with pytest.raises(TypeError, match=r"(frame|data) must be a run or its .* got list"):
            function([1, 2])
    with pytest.raises(ValueError, match=r"must be as of balloonlab\.timeline"):
        bl.figures.timeline(run.frame)


def test_save_knows_its_endings_before_it_writes(closed, tmp_path):
    ax = bl.figures.page_strip(RAGGED)
    with pytest.raises(ValueError, match="endings must be of svg, pdf, png, got 'jpg'"):
        bl.figures.save(ax, tmp_path / "a", ("svg", "jpg"))
    assert list(tmp_path.iterdir()) == []


def test_save_takes_the_axes_of_one_figure(closed, tmp_path):
    axes = bl.figures.panels(1, 2)
    assert bl.figures.save(axes, tmp_path / "two", ["png"]) == [tmp_path / "two.png"]
    with pytest.raises(ValueError, match="those of 2: save each"):
        bl.figures.save([*axes, bl.figures.page_strip(RAGGED)], tmp_path / "x")
    with pytest.raises(TypeError, match="ax must be Axes"):
        bl.figures.save("strip", tmp_path / "x")


def test_a_figure_that_does_not_fit_the_disk_leaves_the_earlier_one(closed, tmp_path):
    ax = bl.figures.page_strip(RAGGED)
    (path,) = bl.figures.save(ax, tmp_path / "strip", ["svg"])
    whole = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            bl.figures.save(ax, tmp_path / "strip", ["svg"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == whole


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
