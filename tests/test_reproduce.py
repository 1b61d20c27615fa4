"""The main job, from the command line to the files it leaves."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab import linux, main_job
from balloonlab.cli.commands import app
from balloonlab.measurement import on_linux, reading, store
from balloonlab.measurement.setups import make_case
from balloonlab.measurement.tables import COLUMNS
from balloonlab.selftest import benchmark as bench
from balloonlab.terminal import Progress

from .kvm import needs_kvm

pytestmark = [pytest.mark.once, pytest.mark.libraries]

runner = CliRunner()
needs_linux = pytest.mark.skipif(bool(linux.missing()), reason="; ".join(linux.missing()))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce")
    arguments = ["reproduce", "--memory", "32MiB", "--repeats", "2", "--out", str(out)]
    return runner.invoke(app, arguments, catch_exceptions=False), out


def test_it_prints_both_sources_side_by_side(outcome):
    result, out = outcome
    assert result.exit_code == 0
    for words in (
        "paper", "lab", "untouched", "touched", "madvise", "4,126", "590", "a allocate, ms",
        "b send, ms", "c translate, ms", "d discard, ms", "remainder, ms", "total, ms", "kicks",
        "wire bytes", "madvise calls", "GiB/s", "speed-up", "RSS fell by", str(out),
    ):  # fmt: skip
        assert (
            words in result.stdout.replace("\n", " ").replace("  ", " ") or words in result.stdout
        )


def test_it_leaves_raw_repeats_metadata_and_figure(outcome):
    _, out = outcome
    loaded = bl.reproduction.Reproduction.load(out)
    assert list(loaded.frame.columns) == COLUMNS
    assert loaded.frame.groupby(["protocol", "touched"])["repeat"].nunique().eq(2).all()
    for key in ("cpu_model", "kernel", "thp", "memory_bytes", "versions", "commit", "utc_time"):
        assert key in loaded.meta
    assert loaded.meta["arguments"] == {
        "guest": "thread", "host": "lab", "memory_bytes": 32 << 20, "balloon_bytes": 28 << 20,
        "repeats": 2,
    }  # fmt: skip
    assert loaded.meta["finished"]
    assert len(loaded.checks) == 10
    assert (out / "headline.svg").read_text().startswith("<?xml")
    assert (out / "headline.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_one_repeat_whose_stages_sum(outcome):
    _, out = outcome
    table = bl.reproduction.Reproduction.load(out).table()
    lab = table[[column for column in table.columns if column[0] != "paper, idle"]]
    stages = lab.loc[[name for name in lab.index if name[1] == " " or name[:3] == "rem"]]
    assert np.allclose(stages.sum(), lab.loc["total, ms"])
    assert table.loc["speed-up", ("paper, idle", "bitmap-v4")] == pytest.approx(4126 / 590)
    assert table.loc["kicks", ("lab, touched", "pfn")] == 28


def test_an_earlier_run_is_set_aside_not_overwritten(tmp_path):
    frame = pd.DataFrame([dict.fromkeys(COLUMNS, 1)])
    first = store.Store(tmp_path)
    first.append(frame)
    first.write_meta({"run": 1})
    first.append(frame)
    (tmp_path / "thesis.tex").write_text("mine")
    second = store.Store(tmp_path)
    second.set_aside()
    second.write_meta({"run": 2})
    (aside,) = tmp_path.glob("earlier-*")
    assert len(pd.read_csv(aside / "timings.csv")) == 2
    assert json.loads((aside / "meta.json").read_text()) == {"run": 1}
    assert not (tmp_path / "timings.csv").exists()
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match=r"must contain timings.csv and meta.json"):
        reading.load(tmp_path)
    (tmp_path / "timings.csv").write_text("")
    with pytest.raises(ValueError, match="no repeat was finished"):
        reading.load(tmp_path)
    (tmp_path / "timings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns run_id"):
        reading.load(tmp_path)


def test_a_sweep_in_the_same_folder_is_left_alone(tmp_path):
    bl.sweep(memory="8MiB", repeats=1, out=tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds a run of sweep, not a reproduce"):
        bl.reproduce(memory="8MiB", repeats=1, out=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_run_that_is_set_aside_is_named(tmp_path, caplog):
    for _ in range(2):
        bl.reproduce(memory="8MiB", repeats=1, out=tmp_path)
    (aside,) = tmp_path.glob("earlier-*")
    assert f"the earlier run is set aside in {aside.name}" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "32MiB", "--balloon", "32MiB"], "balloon must be smaller than memory"),
        (["--memory", "33"], "multiple of the 4 KiB page"),
        (["--memory", "8 bushels"], "memory must be a number"),
        (["--memory", "900TiB"], "are available here"),
        (["--memory", "32MiB", "--repeats", "0"], "repeats must be"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, words, tmp_path):
    result = runner.invoke(app, ["reproduce", *arguments, "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "x").write_text("")
    result = runner.invoke(app, ["reproduce", "--memory", "8MiB", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "x" in result.stderr
    assert "Traceback" not in result.output


def test_a_frame_with_several_runs_is_not_drawn_as_one(outcome):
    _, out = outcome
    frame = bl.reproduction.Reproduction.load(out).frame
    twice = pd.concat([frame, frame.assign(run_id=frame["run_id"] + "x")])
    with pytest.raises(ValueError, match="2 run_ids"):
        bl.figures.headline(twice)
    for bad, words in ((frame.iloc[:0], "no rows"), (frame[["stage"]], "one without run_id")):
        with pytest.raises(ValueError, match=words):
            bl.figures.headline(bad)


def test_table_and_sentences_agree(outcome):
    _, out = outcome
    result = bl.reproduction.Reproduction.load(out)
    table = result.table()
    for touched in (False, True):
        group = "lab, touched" if touched else "lab, untouched"
        shown = table.loc["speed-up", (group, "bitmap-v4")]
        assert result.ratio("pfn", "bitmap-v4", touched).value == pytest.approx(shown)


def test_it_scales_down_where_memory_is_short_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(main_job, "DEFAULT_MEMORY", 256 << 20)
    monkeypatch.setattr(main_job, "available_bytes", lambda: (512 + 80) << 20)
    result = runner.invoke(app, ["reproduce", "--repeats", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert "SCALED DOWN from 256 MiB" in result.stdout
    monkeypatch.setattr(main_job, "available_bytes", lambda: 100 << 20)
    with pytest.raises(MemoryError, match="too little for any guest"):
        bl.reproduce()


def test_the_headline_figure_draws_on_the_axes_it_is_given(outcome):
    import matplotlib.pyplot as plt

    _, out = outcome
    frame = bl.reproduction.Reproduction.load(out).frame
    _, mine = plt.subplots()
    assert bl.figures.headline(frame, ax=mine) is mine
    labels = [text.get_text() for text in mine.get_yticklabels()]
    assert len(labels) == 7
    assert all(label.startswith(("paper, ", "lab, ")) for label in labels)
    assert "ms" in mine.get_xlabel()
    plt.close("all")


def test_the_same_figure_gives_the_same_bytes(outcome, tmp_path):
    _, out = outcome
    frame = bl.reproduction.Reproduction.load(out).frame
    for name in ("a", "b"):
        bl.figures.save(bl.figures.headline(frame), tmp_path / name)
    for ending in ("svg", "png"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.slow_interpreted
def test_bench_runs_every_contender_on_small_data(monkeypatch):
    pages = bl.patterns.random("16MiB", "8MiB")
    words = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    formats = [bench._formats_on(pages, work) for work in bench.FORMAT_WORKS]
    for contenders, wanted in (
        (bench._encoders(pages), {"balloonlab", "numpy", "bitarray"}),
        (bench._run_finders(words), {"balloonlab", "numpy", "bitarray"}),
        *((each, {bench.READ, "pfn", "bitmap-v4", "adaptive", "roaring"}) for each in formats),
    ):
        assert wanted <= set(contenders)
        rows = bench.rows_of(bench.Task("small", "page", 10, 3, contenders))
        assert rows["ratio"].iloc[0] == 1
        assert (rows["median_ms"] > 0).all()
    finders = bench._run_finders(words)
    runs = finders["balloonlab"]()
    assert len(finders["bitarray"]()) == runs.size
    assert finders["numpy"]().size == 2 * runs.size


@needs_linux
def test_by_linuxs_own_driver_it_prints_and_leaves_what_the_lab_does(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Progress, "describe", lambda bar, text: shown.append(text))
    command = ["reproduce", "--guest", "linux", "--memory", "512MiB", "--repeats", "1"]
    found = linux.find()
    command += ["--linux", found.program, "--modules", str(found.modules)]
    result = runner.invoke(app, [*command, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    boots = [text for text in shown if text.endswith(", booting the guest")]
    assert len(boots) == 8
    assert [text.removesuffix(", booting the guest") for text in shown[::2]] == shown[1::2]
    text = " ".join(result.stdout.split())
    for words in (
        "4,126", "590", "linux, untouched: pfn takes", "linux, touched: pfn takes",
        "as long as hinting", "the guest's file in memory fell by", "A repeat is a boot",
        "lab: no columns, because", "Least to greatest", "speed-up",
    ):  # fmt: skip
        assert words in text
    loaded = bl.reproduction.Reproduction.load(tmp_path)
    assert loaded.source == "linux"
    assert loaded.meta["linux"] == found.release
    assert loaded.meta["arguments"]["linux"] == found.program
    assert len(loaded.checks) == 4
    assert list(loaded.table().columns)[2:] == [
        ("linux, untouched", "pfn"), ("linux, untouched", "hinting"),
        ("linux, touched", "pfn"), ("linux, touched", "hinting"),
    ]  # fmt: skip
    assert (tmp_path / "headline.png").exists()


@needs_kvm
def test_in_a_virtual_machine_it_prints_and_leaves_what_the_lab_does(tmp_path):
    command = ["reproduce", "--guest", "kvm", "--memory", "128MiB", "--repeats", "1"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in (
        "4,126", "590", "kvm, untouched: pfn takes", "kvm, touched: pfn takes", "RSS fell by",
        "times one madvise over the same bytes", "an exit and back takes", "kick to host awake",
        "where the guest has it mapped", "lab: no columns, because", "Least to greatest",
    ):  # fmt: skip
        assert words in text
    loaded = bl.reproduction.Reproduction.load(tmp_path)
    assert loaded.source == "kvm"
    assert loaded.meta["kvm"] in text
    checks = loaded.checks.set_index("protocol")
    assert (checks.loc["pfn", "n_exits"] == checks.loc["pfn", "n_waits"] + 1).all()
    assert list(loaded.table().columns)[2:] == [
        ("kvm, untouched", "pfn"), ("kvm, untouched", "bitmap-v4"),
        ("kvm, touched", "pfn"), ("kvm, touched", "bitmap-v4"), ("kvm, touched", "madvise"),
    ]  # fmt: skip
    assert (tmp_path / "headline.png").exists()


def test_a_large_linux_guest_is_warmed_up_in_a_small_one():
    case = make_case(guest="linux", memory="8GiB", pattern="tmpfs50", operation="deflate", steps=9)
    small = on_linux.warm_up(case)
    assert (small.memory_bytes, small.balloon_bytes) == (512 << 20, 448 << 20)
    assert (small.operation, small.protocol, small.touched) == ("deflate", "pfn", True)
    assert on_linux.warm_up(small) == small


def test_a_linux_that_is_not_there_is_one_clear_line(tmp_path):
    command = ["reproduce", "--guest", "linux", "--memory", "512MiB", "--linux", "/nowhere/linux"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "/nowhere/linux" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "x").exists()
