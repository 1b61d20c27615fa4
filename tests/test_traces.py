"""Recorded traces: stored without loss, checked when read, and patterns like any other."""

import json
import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab import traces
from balloonlab.address_map import LOW_RAM_END
from balloonlab.cli.commands import app
from balloonlab.figures.names import state_name
from balloonlab.figures.share_bars import largest
from balloonlab.measurement.setups import make_case
from balloonlab.pages import check_in_ram, codec, metrics

from .strategies import page_sets

GIB = 1 << 30
ANY_PAGES = st.one_of(
    st.lists(st.integers(0, 2**64 - 1), max_size=50),
    st.lists(st.integers(0, 3), max_size=50),  # repeated, up and down by one
    st.lists(st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]), max_size=20),
)


def guest(name="idle-256MiB-50", operations=("inflate", "deflate"), **changes):
    blocks = {"DMA": [1] * 11, "DMA32": [0] * 9 + [4, 8]}
    rows = [
        {
            "name": f"{name}-{operation}",
            "operation": operation,
            "cycle": 1,
            "n_moved": 0,
            "target_pages": 0,
            "buddyinfo_before": blocks,
            "buddyinfo_after": blocks,
        }
        for operation in operations
    ]
    texts = dict.fromkeys(
        ("description", "kernel", "command_line", "thp", "qemu", "accelerator", "utc_time"), "made"
    )
    facts = {"name": name, "state": "idle", "memory_bytes": GIB // 4, "share": 0.5, "seed": 1}
    return {**texts, **facts, "workload": ["seed 1"], "traces": rows, **changes}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Put a folder of small traces in the place of those that come with balloonlab."""
    pages = np.r_[np.arange(40_000, 41_000)[::-1], np.arange(5000, 9000, 3)].astype(np.uint64)
    told = {"idle-256MiB-50-inflate": pages, "idle-256MiB-50-deflate": pages[::-1]}
    traces.write(tmp_path, guest(), told)
    monkeypatch.setattr("balloonlab.datasets.path", lambda name: tmp_path)
    return tmp_path, pages


@given(pages=st.one_of(ANY_PAGES, page_sets()))
def test_any_pages_come_back_as_they_were(pages):
    content = codec.encode(np.array(pages, np.uint64))
    decoded = codec.decode(content)
    assert decoded.dtype == np.uint64
    assert decoded.tolist() == pages


def test_runs_cost_next_to_nothing_and_others_no_more_than_their_numbers():
    assert len(codec.encode(np.arange(1_000_000)[::-1])) < 200
    strewn = np.random.default_rng(0).permutation(20_000)
    assert len(codec.encode(strewn)) < 2.2 * strewn.size


def test_the_file_is_what_its_description_says():
    plain = lzma.decompress(codec.encode([7, 8, 9, 300, 299]))
    assert plain[:16] == b"balloonlab runs\n"
    assert np.frombuffer(plain[16:], "<i8").tolist() == [5, 7, 300, 2, -1]


@given(cut=st.integers(1, 150), flip=st.integers(0, 10_000))
def test_a_damaged_file_is_refused(cut, flip):
    content = bytearray(codec.encode(np.arange(0, 3000, 7)))
    with pytest.raises(ValueError, match="xz file"):
        codec.decode(bytes(content[:-cut]))
    content[flip % len(content)] ^= 1 << flip % 8
    try:
        pages = codec.decode(bytes(content))
    except ValueError:
        return
    assert pages.tolist() == list(range(0, 3000, 7))  # a bit that means nothing


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (b"something else, but long enough to be a header", "not one of page numbers"),
        (b"balloonlab runs\n" + bytes(8) + b"\x01" + bytes(7), "not one of page numbers"),
        (b"balloonlab runs\n\x02" + bytes(7) + b"\x01" + bytes(7 + 8), "runs hold 1 pages, not"),
    ],
)
def test_a_wrong_content_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(lzma.compress(plain))


def test_what_was_written_is_loaded_and_described(own):
    folder, pages = own
    assert traces.names() == ["idle-256MiB-50-inflate", "idle-256MiB-50-deflate"]
    assert np.array_equal(traces.load("idle-256MiB-50-inflate"), pages)
    assert np.array_equal(traces.load("idle-256MiB-50-deflate"), pages[::-1])
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["idle-256MiB-50-inflate.pfns.xz", "idle-256MiB-50.json"]
    frame = traces.index(folder).set_index("name")
    assert frame["source"].unique().tolist() == ["trace"]
    assert frame["balloon_bytes"].tolist() == [pages.size * 4096] * 2
    assert frame["reverse_of"].tolist() == ["", "idle-256MiB-50-inflate"]
    (told,) = traces.encoding_summary(folder).to_dict("records")
    assert (told["state"], told["cycle"], told["n_pages"]) == ("idle", 1, pages.size)
    assert told["mixed_words_share"] > 0.5
    free = 2047 + 4 * 512 + 8 * 1024
    assert frame["unusable_index"].tolist() == pytest.approx([511 / free] * 2)


def test_a_deflation_in_another_order_has_a_file_of_its_own(tmp_path):
    told = {"idle-256MiB-50-inflate": [5, 6, 9], "idle-256MiB-50-deflate": [9, 5, 6]}
    traces.write(tmp_path, guest(), told)
    for name, pages in told.items():
        assert traces.load(name, tmp_path).tolist() == pages
    assert len(list(tmp_path.glob("*.xz"))) == 2


def test_the_reverse_of_a_reverse_has_no_file(tmp_path):
    orders = {"inflate-1": [5, 6, 9], "deflate-1": [9, 6, 5], "inflate-2": [5, 6, 9]}
    sent = {f"idle-256MiB-50-{operation}": pages for operation, pages in orders.items()}
    traces.write(tmp_path, guest(operations=orders), sent)
    assert {name: traces.load(name, tmp_path).tolist() for name in sent} == sent
    assert len(list(tmp_path.glob("*.xz"))) == 1


def test_damage_and_unknown_names_are_told(own):
    folder, _ = own
    with pytest.raises(ValueError, match=r"names\(\), got 'idle-256MiB-50'; the nearest are idle-"):
        traces.load("idle-256MiB-50")
    for name in ("../../etc/passwd", "idle-256MiB-50-inflate-2", None):
        with pytest.raises(ValueError, match="trace must be one of"):
            traces.load(name)
    path = folder / "idle-256MiB-50-inflate.pfns.xz"
    path.write_bytes(codec.encode([1, 2, 3]))
    with pytest.raises(ValueError, match=r"damaged: it holds 3 pages .* recorded were 2334"):
        traces.load("idle-256MiB-50-inflate")
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot be read from .*not an xz file"):
        traces.load("idle-256MiB-50-deflate")
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read from"):
        traces.load("idle-256MiB-50-inflate")


@pytest.mark.parametrize("listed", [traces.names, traces.index])
def test_a_folder_that_is_not_there_or_is_damaged_is_named(listed, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder of traces /nonexistent"):
        listed("/nonexistent")
    assert len(listed(tmp_path)) == 0
    for content, message in (("{", "cannot be read as JSON"), ("[]", "must describe traces")):
        (tmp_path / "idle-256MiB-50.json").write_text(content)
        with pytest.raises(ValueError, match=f"idle-256MiB-50.json {message}"):
            listed(tmp_path)


def test_repeated_pages_are_not_written(tmp_path):
    sent = {"idle-256MiB-50-inflate": [5, 6], "idle-256MiB-50-deflate": [6, 6]}
    with pytest.raises(ValueError, match=r"trace 'idle-256MiB-50-deflate' must not repeat a page"):
        traces.write(tmp_path / "new", guest(), sent)
    assert not (tmp_path / "new").exists()


def test_a_trace_of_ones_own_folder_is_a_pattern(tmp_path):
    pages = np.r_[np.arange(7000, 9000)[::-1], np.arange(5000, 6000, 3)].astype(np.uint64)
    folder = tmp_path / "of mine"
    traces.write(folder, guest(operations=("inflate",)), {"idle-256MiB-50-inflate": pages})
    name = f"trace:{folder}/idle-256MiB-50-inflate"
    assert np.array_equal(bl.patterns.make(name, "256MiB", pages.size * 4096), pages)
    run = bl.measure(pattern=name, touched=False, repeats=1, progress=False)
    assert run.frame["pattern"].unique().tolist() == [name]
    assert run.frame["n_pages"].unique().tolist() == [pages.size]
    assert run.frame["memory_bytes"].unique().tolist() == [GIB // 4]
    with pytest.raises(ValueError, match=r"names\('.*of mine'\), got 'idle-1GiB-50-inflate'"):
        bl.measure(pattern=f"trace:{folder}/idle-1GiB-50-inflate")
    with pytest.raises(FileNotFoundError, match="no folder of traces /nonexistent"):
        bl.measure(pattern="trace:/nonexistent/idle-256MiB-50-inflate")


@pytest.mark.once
def test_the_command_lists_traces_in_80_columns(own, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([], ["--folder", str(tmp_path)]):
        result = CliRunner().invoke(app, ["traces", *arguments])
        assert result.exit_code == 0, result.output
        assert max(map(len, result.stdout.splitlines())) <= 80
        listed = [line.split() for line in result.stdout.splitlines() if "256MiB" in line]
        row = ["idle", "256", "MiB", "9.117", "MiB", "2,334"]
        assert listed == [["idle-256MiB-50-inflate", *row], ["idle-256MiB-50-deflate", *row]]
    result = CliRunner().invoke(app, ["traces", "--folder", "/nonexistent"])
    assert (result.exit_code, result.stderr) == (
        2,
        "balloonlab: there is no folder of traces /nonexistent\n",
    )


def test_a_trace_is_a_pattern_with_sizes_of_its_own(own):
    _, pages = own
    name = "trace:idle-256MiB-50-inflate"
    assert "trace:NAME" in bl.patterns.names()
    assert np.array_equal(bl.patterns.make(name, "256MiB", pages.size * 4096), pages)
    assert np.array_equal(bl.patterns.make(name, "256MiB", "4MiB"), pages[:1024])
    case = make_case(pattern=name).with_pages()
    assert (case.memory_bytes, case.balloon_pages) == (GIB // 4, pages.size)
    assert np.array_equal(case.allocator().take(case.balloon_pages), pages)
    assert make_case(pattern="idle", memory="8MiB").balloon_pages == 7 * 256
    assert make_case(pattern="idle").memory_bytes == make_case(pattern=[1]).memory_bytes == 8 * GIB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": "512MiB"}, r"memory must be 256 MiB with pattern trace:idle.* or left out"),
        ({"balloon": "64MiB"}, r"balloon must be at most .*2334 pages.* needs another trace"),
        ({"pattern": "trace:idle-1GiB-50-inflate"}, r"trace must be one of .*nearest are idle-256"),
    ],
)
def test_what_a_trace_does_not_have_is_refused(own, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_case(**{"pattern": "trace:idle-256MiB-50-inflate", **arguments}).with_pages()


def test_traces_are_measured_compared_and_swept(own):
    _, pages = own
    name = "trace:idle-256MiB-50-inflate"
    run = bl.measure(pattern=name, touched=False, repeats=1, progress=False)
    assert run.frame["n_pages"].unique().tolist() == [pages.size]
    assert run.frame["pattern"].unique().tolist() == [name]
    swept = bl.sweep(
        pattern=[name, "trace:idle-256MiB-50-deflate"],
        balloon=[None, 0.01],
        protocol=["pfn", "bitmap-v4"],
        memory=[None, "8MiB"],
        repeats=1,
        progress=False,
    )
    by_case = swept.frame.drop_duplicates("run_id")
    assert sorted(by_case["n_pages"]) == [655] * 4 + [pages.size] * 4
    assert (by_case["memory_bytes"] == GIB // 4).all()
    assert len(swept.skipped) == 8
    assert swept.skipped["reason"].str.contains("memory must be 256 MiB").any()


@pytest.mark.once
def test_the_command_line_sweeps_a_trace(own, tmp_path):
    arguments = ["--pattern", "trace:idle-256MiB-50-inflate", "--untouched", "--repeats", "1"]
    result = CliRunner().invoke(app, ["sweep", *arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "1 cases measured" in result.stdout
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["arguments"]["memory"] == [None]


@given(pages=page_sets())
def test_telling_counts_what_bitmap_v4_sends(pages):
    (row,) = metrics.encoding_summary({"these": pages}).to_dict("records")
    if not pages:
        assert row["runs_per_gib"] == row["bits_per_word"] == row["mixed_words_share"] == 0
        return
    _, words = bl.wire.pack(pages)
    records = bl.wire.records(bl.wire.encode(pages, "bitmap-v4"))
    by_kind = records.groupby(["kind", "span_pages"])["n_pages"].sum()
    share = by_kind / len(pages)
    assert row["mixed_words_share"] == pytest.approx(share.get(("word", 64), 0))
    assert row["full_words_share"] == pytest.approx(share.get(("block", 64), 0))
    larger = sum(part for (kind, span), part in share.items() if kind == "block" and span > 64)
    assert row["blocks_share"] == pytest.approx(larger)
    assert row["bits_per_word"] == pytest.approx(len(pages) / np.count_nonzero(words))
    n_bitmaps = np.unique(np.flatnonzero(words) // 4096).size
    assert row["bits_per_bitmap"] == pytest.approx(len(pages) / n_bitmaps)
    n_runs = len(metrics.run_lengths(pages).loc[lambda f: f.index.repeat(f["n_runs"])])
    assert row["runs_per_gib"] == pytest.approx(n_runs / (len(pages) / 262_144))


@pytest.mark.once
def test_shipped_traces_are_whole_and_lie_in_the_labs_ram():
    frame = traces.index()
    assert len(frame) > 0
    assert frame["name"].is_unique
    for row in frame.itertuples():
        pages = traces.load(row.name)
        assert pages.size == row.n_pages
        check_in_ram(pages, row.memory_bytes // 4096)  # and none comes twice
        if row.operation == "inflate":
            assert row.n_pages <= row.share * row.memory_bytes / 4096
        if row.memory_bytes > LOW_RAM_END * 4096 and row.share > 0.8 and row.state == "idle":
            assert pages.max() >= 1 << 20
            assert pages.min() < LOW_RAM_END


@pytest.mark.once
def test_the_figure_shows_the_largest_trace_of_each_state():
    ax = bl.figures.traces()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(labels) == sorted(largest())
    states = traces.index()["state"].unique()
    assert sorted(labels) == sorted(state_name(state) for state in states)
    assert not set(labels) & set(states) - {"idle"}  # as readers know them
    widths = np.sum([[bar.get_width() for bar in bars] for bars in ax.containers], axis=0)
    assert widths == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one page set"):
        bl.figures.traces({})


def test_descriptions_that_lack_something_are_refused_and_named(tmp_path):
    bare = {"name": "me", "traces": [{"name": "me-a"}]}
    with pytest.raises(ValueError, match="it lacks state, description, memory_bytes"):
        traces.write(tmp_path, bare, {"me-a": [1, 2, 3]})
    assert not list(tmp_path.iterdir())
    (tmp_path / "me.json").write_text(json.dumps(bare))
    with pytest.raises(ValueError, match=r"me\.json lacks state, .*; capture it again"):
        traces.index(tmp_path)


def test_a_slip_in_the_state_finds_that_state():
    with pytest.raises(ValueError, match="the nearest are idle-"):
        traces.load("idel")


def test_modules_show_what_they_offer():
    for module in (bl.traces, bl.patterns, bl.datasets, bl.sizes, bl.wire, bl.figures, bl.model):
        assert set(dir(module)) == set(module.__all__)
