"""Every figure from stored data: those that come along, and a run of the user's own."""

import pandas as pd
import pytest
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab import datasets
from balloonlab.cli.commands import app
from balloonlab.figures import gallery, names
from balloonlab.figures.looks import PROTOCOLS
from balloonlab.linux.states import STATES

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    bl.sweep(
        memory=["8MiB", "16MiB"],
        balloon=0.5,
        protocol=["pfn", "bitmap-v4"],
        pattern=["idle", "geometric:1", "geometric:8"],
        repeats=2,
        out=folder,
        progress=False,
    )
    return folder


def test_a_run_gives_its_own_figures_and_no_others(own, tmp_path):
    outcome = dict(bl.figures.draw_all(tmp_path, own))
    assert set(outcome) == set(gallery.FROM_RUNS)
    drawn = {name for name, problem in outcome.items() if problem is None}
    assert drawn == {"sizes-time", "sizes-rate"}
    assert "several cases" in outcome["runs-time"]  # of two memory sizes
    for name in ("density-time", "guests", "guests-ratio", "policies"):
        assert outcome[name] == "the run has no such cases"
    names = {f"{name}.{ending}" for name in drawn for ending in ("svg", "pdf", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


def test_figures_of_one_guest(own):
    frame = bl.load(own).frame.query("memory_bytes == 8388608")
    for y, lines in (("time_ns", 2), ("n_kicks", 2), ("n_discards", 2)):
        ax = bl.figures.runs(frame, y)
        assert len(ax.containers) == lines
        xs = ax.containers[0][0].get_xdata().tolist()
        assert xs == [1, 8]
    bars = bl.figures.grid(frame)
    assert len(bars.get_yticklabels()) == 2
    sizes = bl.figures.sizes(bl.load(own).frame, "rate")
    labels = [text.get_text() for text in sizes.get_legend().get_texts()]
    assert labels == ["lab, pfn, touched", "lab, bitmap-v4, touched"]


def figures(*arguments):
    return CliRunner().invoke(app, ["figures", *map(str, arguments)])


def test_the_command_says_what_it_drew(own, tmp_path):
    result = figures("--out", tmp_path, "--from", own)
    assert result.exit_code == 0
    assert "sizes-time: drawn" in result.stdout
    assert "headline: skipped, frame must hold" in result.stdout
    assert "2 figures in" in result.stdout
    assert result.stderr == ""


def test_only_the_named_figures_are_drawn(own, tmp_path):
    result = figures("--out", tmp_path, "--only", "strip", "--only", "sizes-rate")
    assert result.stdout.splitlines()[:2] == ["sizes-rate: drawn", "strip: drawn"]
    assert len(list(tmp_path.iterdir())) == 6  # and no numbers
    one = figures("--out", tmp_path, "--only", "strip").stdout
    assert one.splitlines()[-1].startswith("1 figure in ")
    for arguments in (["--only", "sizs-rate"], ["--only", "strip", "--from", own]):
        result = figures("--out", tmp_path / "none", *arguments)
        assert result.exit_code == 2
        assert "only must name figures" in result.stderr
        assert not (tmp_path / "none").exists()
    assert "similar: sizes-rate" in figures("--out", tmp_path, "--only", "sizs-rate").stderr


def test_a_folder_without_a_run_is_an_error(own, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, words in (
        (["--from", tmp_path / "nowhere", "--out", tmp_path / "x"], "nowhere"),
        (["--from", tmp_path, "--out", tmp_path / "x"], "holds no run"),
        (["--from", own, "--out", tmp_path / "file"], "file"),
        (["--from", own, "--out", "/proc/nothing"], "/proc/nothing"),
    ):
        result = figures(*arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""
        assert not (tmp_path / "x").exists()


def test_huge_pages_are_a_figure_of_their_own(own):
    frame = bl.load(own).frame
    title = bl.figures.sizes(frame).get_title(loc="left")
    assert title.endswith("no huge pages")
    with pytest.raises(ValueError, match="has not"):
        bl.figures.sizes(frame, thp=True)


def test_measured_lines_come_before_predicted_ones_and_pfn_first(own):
    frame = bl.load(own).frame.query("pattern == 'idle'")
    model = bl.predict("1TiB", protocol=["pfn", "bitmap-v4"], extrapolate=True).frame
    for rows in (pd.concat([frame, model]), pd.concat([model, frame])):
        legend = bl.figures.sizes(rows).get_legend()
        assert [text.get_text() for text in legend.get_texts()] == [
            "lab, pfn, touched",
            "lab, bitmap-v4, touched",
            "model, pfn, touched",
            "model, bitmap-v4, touched",
        ]


def test_a_model_has_its_protocols_look_and_its_own_line(own):
    frame = bl.load(own).frame.query("pattern == 'idle'")
    large = ["16TiB", "4TiB"]
    model = bl.predict(large, protocol=["pfn", "bitmap-v4"], extrapolate=True).frame
    ax = bl.figures.sizes(pd.concat([frame, model]))
    lines = {container.get_label(): container[0] for container in ax.containers}
    for protocol in ("pfn", "bitmap-v4"):
        measured, predicted = (lines[f"{name}, {protocol}, touched"] for name in ("lab", "model"))
        assert measured.get_color() == predicted.get_color() == PROTOCOLS[protocol][0]
        assert measured.get_marker() == predicted.get_marker() == PROTOCOLS[protocol][1]
        assert (measured.get_linestyle(), predicted.get_linestyle()) == ("-", "--")
        assert predicted.get_markerfacecolor() == "white" != measured.get_markerfacecolor()
    assert [text.get_text() for text in ax.texts] == ["pfn ends: 32 bits"]
    assert 2**44 in [line.get_xdata()[0] for line in ax.lines]
    assert not bl.figures.sizes(frame).texts


def test_what_hosts_gain_is_a_line_per_policy():
    frame = bl.load(datasets.path("policies")).frame
    ax = bl.figures.policies(frame)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "qemu, cloud-hypervisor"  # one and the same on this backing
    table = bl.ladder.policy_times(frame)
    assert [name for label in labels for name in label.split(", ")] == [*table["policy"].unique()]
    drawn = [x for line in ax.lines for x in line.get_xdata()]
    alone = table[table["policy"] != "cloud-hypervisor"]
    assert sorted(drawn) == pytest.approx(sorted(alone["page_ns"]))
    assert (table["least_ns"] <= table["page_ns"]).all()
    assert (table["page_ns"] <= table["greatest_ns"]).all()
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "idle (lab)" in legend
    assert len(legend) == len(table.groupby(["source", "pattern"]))
    with pytest.raises(ValueError, match="several host policies"):
        bl.figures.policies(frame.query("discard == 'page'"))


def test_every_state_of_a_guest_has_a_name():
    assert set(names.STATES) == set(STATES)
    assert names.pattern_name("trace:linux-anon-2GiB-85-inflate-s3") == "anonymous, half freed"
    assert names.pattern_name("geometric:4096") == "runs of 4,096"
    assert names.pattern_name("geometric:1") == "single pages"
    assert names.pattern_name("idle") == "idle"
    assert names.state_name("my own") == "my own"


def test_shipped_data_are_found():
    assert datasets.path("published.csv").is_file()
    with pytest.raises(FileNotFoundError, match="no data of the name 'moon'"):
        datasets.path("moon")


def test_a_stored_timeline_is_drawn_as_it_was_recorded(tmp_path):
    result = CliRunner().invoke(app, ["timeline", "--memory", "8MiB", "--out", str(tmp_path)])
    assert result.exit_code == 0
    frame = bl.load_timeline(tmp_path)
    assert frame.attrs["protocol"] == "pfn"
    assert set(frame["end"]) == {"guest", "host"}
    assert (frame["end_ns"] >= frame["begin_ns"]).all()
    assert "7 MiB of touched memory" in bl.figures.timeline(frame).get_title(loc="left")
    result = figures("--from", tmp_path, "--out", tmp_path / "drawn")
    assert result.stdout.splitlines()[0] == "timeline: drawn"
    assert len(list((tmp_path / "drawn").iterdir())) == 3
    result = CliRunner().invoke(app, ["timeline", "--protocol", "smoke"])
    assert result.exit_code == 2
    assert "smoke" in result.output


def test_guests_are_drawn_by_state(own):
    ax = bl.figures.guests(bl.load(datasets.path("guests")).frame)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[:2] == ["anonymous, half freed, pfn", "anonymous, half freed, bitmap-v4"]
    assert len(labels) == 18
    with pytest.raises(ValueError, match="pattern is a trace"):
        bl.figures.guests(bl.load(own).frame)


def test_the_title_says_which_discard_is_drawn_where_there_are_others():
    frame = bl.load(datasets.path("density")).frame
    other = frame.assign(discard=frame["discard"].map({"page": "range", "range": "page"}))
    other["run_id"] += "-other"
    alone, both = (bl.figures.density(rows) for rows in (frame, pd.concat([frame, other])))
    assert alone.get_title(loc="left") == "Random pages"
    drawn = "(drawn: pfn by page, bitmap-v4 by range)"
    assert both.get_title(loc="left") == f"Random pages\n{drawn}"
