"""QEMU as the host of measure, compare, sweep and reproduce: the lab's frames and files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.guest import BalloonDriver, Operation
from balloonlab.kernels import clock
from balloonlab.kernels.clock import Log
from balloonlab.measurement import reading, stages_by_difference, tables
from balloonlab.pages import Buddy
from balloonlab.sizes import MIB
from balloonlab.terminal import to_text

from .qemu import children, measure, needs_qemu

PAGES = 64 * MIB // 4096
OWN_BYTES = 8 * MIB  # by which QEMU's own heap may change meanwhile: it is trimmed now and then


@needs_qemu
@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize(
    ("protocol", "operation", "n_kicks", "wire_bytes"),
    [
        ("pfn", "inflate", 56, 4 * 14336),
        ("pfn", "deflate", 56, 4 * 14336),
        ("reporting", "inflate", 1, 16 * 28),
    ],
)
def test_measure_gives_the_labs_frame(touched, protocol, operation, n_kicks, wire_bytes):
    run = measure(protocol=protocol, operation=operation, touched=touched)
    frame, check = run.frame, run.checks.iloc[0]
    assert list(frame.columns) == tables.COLUMNS
    assert not frame.isna().any().any()
    assert set(frame["source"]) == {"qemu"}
    own = {"inflate": "allocate", "deflate": "release"}[operation]
    assert set(frame["stage"]) == {own, "send", "translate", "discard", "remainder"}
    measured = frame[frame["stage"].isin([own, "send", "remainder"])]
    assert (measured["time_ns"] >= 0).all()
    row = frame.iloc[0]
    assert (row["n_kicks"], row["wire_bytes"]) == (n_kicks, wire_bytes)
    assert row["n_pages"] == check["balloon_pages"] == 14336
    inflated = touched and operation == "inflate"
    assert abs(check["rss_fall_bytes"] - inflated * 14336 * 4096) < OWN_BYTES
    assert check["resident_pages_before"] >= touched * (PAGES - 32)
    assert check["lost_pages"] == 0
    assert run.meta["qemu"].count(".") == 1
    assert list(run.checks.columns) == tables.CHECK_COLUMNS + tables.OWN_CHECKS["qemu"]
    assert (frame["negotiated_protocol"] == protocol).all()
    assert set(frame["discard"]) == {"range" if protocol == "reporting" else "page"}
    fixed = {"n_bitmaps": 0, "steps": 1, "wait": "block", "order": "as is"}
    assert (frame[list(fixed)] == list(fixed.values())).all(axis=None)
    assert (check.filter(regex="^(empty|skipped|real)_") > 0).all()
    assert children() == []


@needs_qemu
def test_scattered_pages_and_whole_blocks_of_a_pattern():
    run = measure(balloon="8MiB", pattern="random")
    assert set(run.frame["n_pages"]) == {2048}
    pages = np.r_[1024:2048, 3000:3010]
    run = measure(pattern=pages, protocol="reporting", block_order=8)
    assert set(run.frame["n_pages"]) == {1024}
    assert set(run.frame["n_records"]) == {4}
    assert set(run.checks["block_order"]) == {8}
    for pattern, balloon in (("huge", 16 * MIB), ("aged", 50 * MIB), ("idle", 17 * MIB + 4096)):
        run = measure(balloon=balloon, pattern=pattern, protocol="reporting", block_order=6)
        told = run.frame["n_pages"].iloc[0]
        assert told <= balloon // 4096
        assert (told == balloon // 4096 // 64 * 64) == (pattern != "aged")
        assert set(run.frame["n_records"]) == {told // 64}
        assert set(run.frame["balloon_bytes"]) == {told * 4096}
    shuffled = measure(balloon="8MiB", pattern="every:2", order="shuffled")
    assert set(shuffled.frame["n_pages"]) == {2048}
    assert set(shuffled.frame["order"]) == {"shuffled"}


@needs_qemu
@pytest.mark.parametrize("thp", [True, False])
def test_huge_pages_are_what_was_asked_for(thp):
    switch = bl.measurement.provenance.thp_state()
    if switch in ("never", "absent"):
        pytest.skip(f"transparent huge pages are {switch} here")
    run = measure(protocol="reporting", thp=thp)
    assert (run.checks["huge_bytes_before"] > 0).all() == thp


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"protocol": "bitmap-v4"}, ValueError, "protocol must be one of pfn, reporting with"),
        ({"protocol": "reporting", "operation": "deflate"}, ValueError, "back without a message"),
        ({"protocol": "reporting", "order": "shuffled"}, ValueError, "order must be 'as is'"),
        ({"protocol": "reporting", "discard": "page"}, ValueError, "discard must be 'range'"),
        ({"discard": "range"}, ValueError, "discard must be 'page' .* does nothing else"),
        ({"wait": "busy"}, ValueError, "wait must be 'block' with host='qemu', got 'busy'"),
        ({"bitmaps": 3}, ValueError, "bitmaps must be 32 with host='qemu'"),
        ({"steps": 2}, ValueError, "steps must be 1 with host='qemu'"),
        ({"block_order": 11}, ValueError, "block_order must be .* from 0 to 10"),
        ({"block_order": 1.5}, ValueError, "block_order must be"),
        (
            {"protocol": "reporting", "balloon": "1MiB"},
            ValueError,
            "256 pages of .* idle hold none",
        ),
        (
            {"protocol": "reporting", "pattern": np.arange(1, 400)},
            ValueError,
            "a whole block of block_order=9 .* these 399 pages of pattern custom:.* hold none",
        ),
        ({"protocol": "reporting", "pattern": [5, 5]}, ValueError, "not repeat a page"),
        ({"memory": 8 * MIB + 4096}, ValueError, "memory must be a multiple of 1 MiB for QEMU"),
        ({"operation": "explode"}, ValueError, "operation must be one of"),
        ({"touched": "yes"}, TypeError, "touched must be True or False"),
        ({"host": "lab", "protocol": "reporting"}, ValueError, "is measured .* and host='qemu'"),
        ({"host": "xen"}, ValueError, "host must be one of lab, qemu"),
    ],
)
def test_measure_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        measure(**arguments)


def test_a_timeline_is_the_labs_alone():
    with pytest.raises(ValueError, match="host must be 'lab' for a timeline"):
        bl.timeline(memory="8MiB", host="qemu")


# Stages by difference


def log_of(*intervals):
    log = Log.empty(len(intervals))
    log.rows[:] = intervals
    log.length[0] = len(intervals)
    return log


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
def test_stages_by_difference_sum_to_the_wall_time(operation):
    trips = [(clock.ROUND_TRIP, 0, length) for length in (100, 130, 200, 250, 90, 130)]
    pairs = stages_by_difference.Rehearsal.of(log_of(*trips), 300)
    assert pairs.translate_ns == 40
    assert pairs.skipped_cpu_ns == (100 + 40) // 2
    kinds = clock.ALLOCATE, clock.RELEASE
    log = log_of((kinds[operation == "deflate"], 0, 7), (clock.PACK, 7, 9), *trips[:2])
    done = Operation(np.zeros(0, np.uint64), "pfn", 0, wall_ns=300, n_kicks=2)
    times = stages_by_difference.stage_times(operation, log, done, 190, pairs)
    own = {"inflate": "allocate", "deflate": "release"}[operation]
    assert times == {
        (own, "all"): 7,
        ("send", "pack"): 2,
        ("send", "notify"): 230 - 80 - 50,
        ("translate", "all"): 80,
        ("discard", "all"): 190 - 2 * 70,
        ("remainder", "all"): 300 - 7 - 2 - 230,
    }
    assert sum(times.values()) == done.wall_ns


@given(st.data())
def test_joined_pages_are_free_in_whole_blocks(data):
    pages = data.draw(st.lists(st.integers(0, 2047), unique=True, max_size=300))
    pages += range(1024, 1024 + 64 * data.draw(st.integers(0, 4)))
    pages = list(dict.fromkeys(pages))
    by_order = Buddy.joining(2048, pages).free_blocks()
    assert by_order @ (1 << np.arange(by_order.size)) == len(pages)
    whole = [set(range(start, start + 64)) for start in range(0, 2048, 64)]
    n_whole = sum(block <= set(pages) for block in whole)
    assert by_order[6:] @ (1 << np.arange(by_order.size - 6)) == n_whole


# Together with the lab, on disk, and from the command line


@needs_qemu
def test_lab_and_qemu_in_one_frame():
    hosts = [{"host": "lab"}, {"host": "qemu"}]
    run = bl.compare(hosts, memory="64MiB", protocol="pfn", touched=False, repeats=1)
    assert set(run.frame["source"]) == {"lab", "qemu"}
    assert run.frame["n_kicks"].nunique() == 1
    assert (run.checks["block_order"].isna() == [True, False]).all()


@needs_qemu
def test_a_sweep_in_qemu_goes_on_and_is_read_back(tmp_path, monkeypatch):
    grid = {
        "memory": "64MiB", "balloon": [0.25, 0.5], "touched": False, "repeats": 1,
        "protocol": ["pfn", "reporting"], "block_order": [8, 10], "pattern": ["idle", "every:2"],
        "host": "qemu", "out": tmp_path,
    }  # fmt: skip
    report = BalloonDriver.report

    def dies(self, *arguments):
        self._transport._process.kill()
        return report(self, *arguments)

    monkeypatch.setattr(BalloonDriver, "report", dies)
    failed = bl.sweep(**grid)
    assert set(failed.frame["protocol"]) == {"pfn"}
    assert set(failed.skipped["outcome"]) == {"failed", "skipped"}
    reasons = failed.skipped.groupby("outcome")["reason"].unique()
    assert "ended early by signal SIGKILL" in reasons["failed"][0]
    assert all("hold none" in reason for reason in reasons["skipped"])
    assert children() == []
    monkeypatch.setattr(BalloonDriver, "report", report)
    run = bl.sweep(**grid)
    assert len(run.checks) == 2 * 2 + 2 * 2  # pfn by pattern and balloon, blocks of idle
    assert run.checks.groupby("protocol")["block_order"].unique().map(sorted).to_dict() == {
        "pfn": [0], "reporting": [8, 10],
    }  # fmt: skip
    assert len(run.meta["sessions"]) == 2
    assert bl.load(tmp_path).checks.equals(run.checks)
    with pytest.raises(ValueError, match=r"host=\['qemu'\], not \['lab'\]"):
        bl.sweep(**grid | {"host": "lab", "protocol": "pfn"})
    other = {**run.meta, "qemu": "5.9"}
    with pytest.raises(ValueError, match=r"unlike in qemu \("):
        reading.check_alike({"a": run.meta, "lab": {**run.meta, "qemu": None}, "b": other}, "")


@needs_qemu
def test_the_command_sweeps_in_qemu(tmp_path):
    command = ["sweep", "--host", "qemu", "--memory", "64MiB", "--untouched", "--repeats", "1"]
    command += ["--protocol", "pfn", "--protocol", "reporting", "--block-order", "10"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 cases measured, 0 left out (qemu)" in result.stdout
    run = bl.load(tmp_path)
    records = run.frame.groupby("protocol")["n_records"].first()
    assert records.to_dict() == {"pfn": 14336, "reporting": 14}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce")
    command = ["reproduce", "--host", "qemu", "--memory", "64MiB", "--repeats", "2"]
    return CliRunner().invoke(app, [*command, "--out", str(out)], catch_exceptions=False), out


@needs_qemu
def test_reproduce_in_qemu_prints_and_leaves_what_the_labs_does(outcome):
    result, out = outcome
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in (
        "paper", "qemu", "untouched", "touched", "reporting", "4,126", "590", "a allocate, ms",
        "d discard, ms", "total, ms", "speed-up", "Least to greatest", "qemu, touched: RSS fell by",
        "qemu, untouched: pfn takes", "as long as reporting", "discard are differences",
    ):  # fmt: skip
        assert words in text
    assert "…" not in text
    assert max(map(len, result.stdout.splitlines())) <= 100
    loaded = bl.reproduction.Reproduction.load(out)
    assert loaded.source == "qemu"
    assert set(loaded.frame["source"]) == {"qemu"}
    assert list(loaded.frame.columns) == tables.COLUMNS
    assert loaded.frame.groupby(["protocol", "touched"])["repeat"].nunique().eq(2).all()
    assert loaded.meta["finished"]
    assert loaded.meta["qemu"]
    assert set(tables.OWN_CHECKS["qemu"]) <= set(loaded.checks.columns)
    assert (out / "headline.svg").exists()
    assert (out / "headline.png").exists()


@needs_qemu
def test_its_table_figure_and_ranges_agree(outcome):
    import matplotlib.pyplot as plt

    loaded = bl.reproduction.Reproduction.load(outcome[1])
    table, ranges = loaded.table(), loaded.ranges()
    assert list(table.columns) == [
        ("paper, idle", "pfn"), ("paper, idle", "bitmap-v4"),
        ("qemu, untouched", "pfn"), ("qemu, untouched", "reporting"),
        ("qemu, touched", "pfn"), ("qemu, touched", "reporting"),
    ]  # fmt: skip
    for source, touched, protocol in ranges.index:
        column = table[f"{source}, {'touched' if touched else 'untouched'}", protocol]
        least, greatest = ranges.loc[(source, touched, protocol), "total"]
        assert least * 0.999 <= column["total, ms"] <= greatest * 1.001
    _, mine = plt.subplots()
    assert bl.figures.headline(loaded.frame, ax=mine) is mine
    labels = [text.get_text() for text in mine.get_yticklabels()]
    assert labels[2:] == [
        "qemu, untouched: pfn", "qemu, untouched: reporting",
        "qemu, touched: pfn", "qemu, touched: reporting",
    ]  # fmt: skip
    same = bl.figures.headline(loaded)
    assert [text.get_text() for text in same.get_yticklabels()] == labels
    plt.close("all")
    with pytest.raises(ValueError, match="cases of source 'lab', got only those of qemu"):
        bl.figures.headline(loaded.frame, source="lab")


@needs_qemu
def test_a_lab_run_of_the_same_size_stands_beside_it(outcome, monkeypatch, tmp_path):
    import matplotlib.pyplot as plt

    bl.reproduce(memory="64MiB", repeats=1, out=tmp_path)
    path = bl.datasets.path
    beside = lambda name: tmp_path if name == "headline" else path(name)  # noqa: E731
    monkeypatch.setattr("balloonlab.datasets.path", beside)
    loaded = bl.reproduction.Reproduction.load(outcome[1])
    assert ("lab, touched", "madvise") in loaded.table().columns
    text = to_text(bl.reproduction.report.render(loaded))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "lab: the run that comes with balloonlab" in " ".join(text.split())
    labels = bl.figures.headline(loaded.frame).get_yticklabels()
    assert len(labels) == 2 + 5 + 4
    plt.close("all")


@needs_qemu
def test_repeats_that_were_finished_are_kept_when_qemu_dies(monkeypatch, tmp_path):
    report, calls = BalloonDriver.report, []

    def dies(self, *arguments):
        calls.append(1)
        if len(calls) > 3:  # a warm-up, and a repeat of it at least
            self._transport._process.kill()
        return report(self, *arguments)

    monkeypatch.setattr(BalloonDriver, "report", dies)
    command = ["reproduce", "--host", "qemu", "--memory", "64MiB", "--repeats", "2"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "ended early by signal SIGKILL" in result.stderr
    assert f"Finished repeats are in {tmp_path / 'timings.csv'}" in result.stderr
    kept = bl.reproduction.Reproduction.load(tmp_path)
    assert not kept.meta["finished"]
    assert 1 <= len(kept.checks) < 8
    assert bl.reproduction.findings(kept)
    assert children() == []
