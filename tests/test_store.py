"""What is stored is whole or measured again: never silently less, never twice."""

import errno
import json
import logging
import os
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.measurement import reading, runner, store
from balloonlab.sizes import MIB

pytestmark = [pytest.mark.once, pytest.mark.libraries]

GRID = {"memory": "8MiB", "protocol": ["pfn", "bitmap-v4"], "touched": False, "repeats": 2}
ARGUMENTS = {**GRID, "progress": False}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return bl.sweep(**ARGUMENTS, out=out), out


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "run")
    return tmp_path / "run"


def edited(path, edit):
    frame = pd.read_csv(path, dtype=str, na_filter=False)
    edit(frame).to_csv(path, index=False)


def negative(frame):
    """The same sum, a time below zero."""
    times = frame["time_ns"].astype(int)
    times[0], times[1] = -1, times[0] + times[1] + 1
    return frame.assign(time_ns=times)


DAMAGE = {
    "cut": lambda folder: os.truncate(
        folder / "timings.csv", (folder / "timings.csv").stat().st_size - 300
    ),
    "rows twice": lambda folder: edited(
        folder / "timings.csv", lambda frame: pd.concat([frame, frame.head(7)])
    ),
    "a row twice": lambda folder: edited(
        folder / "timings.csv", lambda frame: pd.concat([frame.head(1), frame])
    ),
    "a row lost": lambda folder: edited(folder / "timings.csv", lambda frame: frame.drop(index=3)),
    "negative": lambda folder: edited(folder / "timings.csv", negative),
    "another time": lambda folder: edited(
        folder / "timings.csv", lambda frame: frame.replace({"time_ns": frame["time_ns"][0]}, "1")
    ),
    "no check": lambda folder: edited(folder / "checks.csv", lambda frame: frame.drop(index=0)),
    "check twice": lambda folder: edited(
        folder / "checks.csv", lambda frame: pd.concat([frame, frame.head(1)])
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_repeat_is_dropped_named_and_measured_again(whole, copy, caplog, damage):
    run, _ = whole
    DAMAGE[damage](copy)
    left = bl.load(copy)
    assert len(left.checks) < len(run.checks)
    assert (left.frame.groupby(["run_id", "repeat"]).size() == 7).all()
    assert "not whole and do not count" in caplog.text
    assert str(copy) in caplog.text
    dropped = run.checks[~run.checks["wall_ns"].isin(left.checks["wall_ns"])]
    assert dropped["run_id"].iloc[0] in caplog.text
    again = bl.sweep(**ARGUMENTS, out=copy)
    assert len(again.checks) == len(run.checks)
    assert len(again.frame) == len(run.frame)
    assert len(again.frame.merge(left.frame)) == len(left.frame)
    caplog.clear()
    assert_frame_equal(bl.load(copy).frame, again.frame)
    assert not caplog.records


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_times_that_are_gone_are_measured_again(whole, copy, caplog, how):
    path = copy / "timings.csv"
    path.unlink() if how == "deleted" else path.write_text("")
    with pytest.raises((ValueError, FileNotFoundError), match=r"holds no run|is empty"):
        bl.load(copy)
    run = bl.sweep(**ARGUMENTS, out=copy)
    assert "its times are missing" in caplog.text
    assert len(run.frame) == len(whole[0].frame)


def test_every_repeat_sums_to_its_wall_time(whole):
    run, _ = whole
    sums = run.frame.groupby(["run_id", "repeat"], sort=False)["time_ns"].sum()
    assert (run.checks.set_index(["run_id", "repeat"])["wall_ns"] == sums).all()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"command": "sweep"}', "\x00\xff"])
def test_damaged_metadata_is_one_clear_error(copy, text):
    (copy / "meta.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"meta\.json is damaged"):
        bl.sweep(**ARGUMENTS, out=copy)
    if "command" not in text:
        with pytest.raises(ValueError, match=r"meta\.json is damaged"):
            bl.load(copy)


def test_metadata_of_another_id_does_not_double_the_cases(copy):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"id": "0" * 32}))
    with pytest.raises(ValueError, match=r"meta\.json is damaged: its id"):
        bl.sweep(**ARGUMENTS, out=copy)


@pytest.mark.parametrize(
    ("name", "column", "cell"),
    [
        ("timings.csv", "time_ns", ""),
        ("timings.csv", "n_kicks", "7.5"),
        ("timings.csv", "touched", "maybe"),
        ("checks.csv", "wall_ns", "x"),
        ("checks.csv", "lost_pages", "9" * 30),
    ],
)
def test_a_damaged_cell_is_named(copy, name, column, cell):
    def edit(frame):
        frame.loc[2, column] = cell
        return frame

    edited(copy / name, edit)
    with pytest.raises(ValueError, match=rf"{name} is damaged: row 4, column {column} holds"):
        bl.load(copy)


def test_binary_files_are_named(copy):
    (copy / "timings.csv").write_bytes(b"run_id\xff\xfe\n")
    with pytest.raises(ValueError, match=r"timings\.csv is damaged: it is no text"):
        bl.load(copy)


# Folders


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "must name a folder"), ("x", "x is a file"), ("x/deeper/still", "x is a file")],
)
def test_out_is_checked_first(tmp_path, monkeypatch, name, words):
    (tmp_path / "x").write_text("")
    out = tmp_path / name if name else ""
    monkeypatch.setattr(runner, "take_turn", None)
    arguments = {"memory": "8MiB", "out": out}
    for call in (bl.measure, bl.sweep, bl.reproduce, bl.timeline):
        with pytest.raises(ValueError, match=words):
            call(**arguments)
    with pytest.raises(ValueError, match=words):
        bl.compare([{}], **arguments)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="out must be a folder that can be written"):
        store.check_out(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_no_command_overwrites_anothers_metadata(copy, monkeypatch, tmp_path):
    before = (copy / "meta.json").read_bytes()
    monkeypatch.setattr("balloonlab.measurement.timelines._run_once", None)  # not even begun
    with pytest.raises(ValueError, match=r"meta\.json of another run \(timings\.csv\)"):
        bl.timeline(memory="8MiB", out=copy)
    table = pd.DataFrame({"a": [1]})
    with pytest.raises(ValueError, match="choose another folder"):
        store.write_table(table, {}, copy, "fuzz.csv")
    assert (copy / "meta.json").read_bytes() == before
    store.write_table(table, {"n": 1}, tmp_path / "fuzz", "fuzz.csv")
    for call in (bl.measure, bl.sweep, bl.reproduce):
        with pytest.raises(ValueError, match=r"another run \(fuzz\.csv\)"):
            call(memory="8MiB", out=tmp_path / "fuzz")
    store.write_table(table, {"n": 2}, tmp_path / "fuzz", "fuzz.csv")
    (aside,) = (tmp_path / "fuzz").glob("earlier-*")
    assert json.loads((aside / "meta.json").read_text()) == {"n": 1}
    assert (aside / "fuzz.csv").exists()


def test_all_that_write_take_the_lock(tmp_path):
    table = pd.DataFrame({"a": [1]})
    with store.Store(tmp_path).locked():
        for call in (bl.measure, bl.sweep, bl.reproduce):
            with pytest.raises(ValueError, match="by another process"):
                call(memory="8MiB", repeats=1, out=tmp_path, progress=False)
        with pytest.raises(ValueError, match="by another process"):
            store.write_table(table, {}, tmp_path, "fuzz.csv")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_moment_do_not_overwrite_each_other(tmp_path):
    folder = store.Store(tmp_path)
    for number in range(3):
        folder.append(pd.DataFrame({"n": [number]}))
        os.utime(tmp_path / "timings.csv", (1e9, 1e9))
        folder.set_aside()
    kept = [pd.read_csv(path)["n"].item() for path in tmp_path.glob("earlier-*/timings.csv")]
    assert sorted(kept) == [0, 1, 2]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    folder = store.Store(tmp_path)
    with pytest.raises(OSError, match=r"No space left on device.*timings\.csv"):
        folder.append(pd.DataFrame({"n": [1]}))
    with pytest.raises(OSError, match=r"No space left on device.*meta\.json"):
        folder.write_meta({})
    assert [path.name for path in tmp_path.iterdir()] == ["timings.csv"]


def test_an_interrupt_leaves_no_draft(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.Store(tmp_path).write_meta({})
    assert list(tmp_path.iterdir()) == []


# The other calls


@pytest.fixture
def stops(monkeypatch):
    """Ctrl-C at the n-th turn."""
    take_turn, turns = runner.take_turn, []

    def counted(*arguments):
        turns.append(arguments[3])
        if len(turns) == counted.stop:
            raise KeyboardInterrupt
        return take_turn(*arguments)

    counted.stop = 0
    monkeypatch.setattr(runner, "take_turn", counted)
    return counted, turns


CALLS = {
    "measure": lambda out, **more: bl.measure(**{"memory": "8MiB", "repeats": 4} | more, out=out),
    "compare": lambda out, **more: bl.compare(
        [{"protocol": "pfn"}, {"protocol": "madvise"}], **{"memory": "8MiB", "repeats": 2} | more,
        out=out,
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_measure_and_compare_go_on_too(stops, tmp_path, call):
    stops[0].stop = 4
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](tmp_path)
    kept = bl.load(tmp_path)
    assert not kept.meta["finished"]
    assert len(kept.checks) in (1, 2)
    stops[0].stop = 0
    run = CALLS[call](tmp_path)
    assert len(run.checks) == 4
    assert len(run.frame.merge(kept.frame)) == len(kept.frame)
    assert run.meta["command"] == call
    with pytest.raises(ValueError, match="repeat its arguments to go on"):
        CALLS[call](tmp_path, memory="16MiB")
    with pytest.raises(ValueError, match=f"a run of {call}, not a sweep"):
        bl.sweep(memory="8MiB", out=tmp_path)


def test_reproduce_goes_on_with_an_unfinished_run_of_the_same_arguments(stops, tmp_path):
    arguments = {"memory": "8MiB", "repeats": 1, "out": tmp_path, "progress": False}
    stops[0].stop = 6
    with pytest.raises(KeyboardInterrupt):
        bl.reproduce(**arguments)
    kept = bl.load(tmp_path)
    stops[0].stop = 0
    result = bl.reproduce(**arguments)
    assert not list(tmp_path.glob("earlier-*"))
    assert len(result.checks) == 5
    assert len(result.frame.merge(kept.frame)) == len(kept.frame)
    bl.reproduce(**arguments)
    assert len(list(tmp_path.glob("earlier-*"))) == 1
    bl.reproduce(**arguments | {"memory": "16MiB"})
    assert len(list(tmp_path.glob("earlier-*"))) == 2


def test_a_damaged_run_that_is_set_aside_leaves_a_new_one_behind(stops, tmp_path):
    arguments = {"memory": "8MiB", "repeats": 1, "out": tmp_path, "progress": False}
    stops[0].stop = 6
    with pytest.raises(KeyboardInterrupt):
        bl.reproduce(**arguments)
    edited(tmp_path / "timings.csv", lambda frame: frame.assign(time_ns="soon"))
    old = json.loads((tmp_path / "meta.json").read_text())
    stops[0].stop = 0
    result = bl.reproduce(**arguments)
    (aside,) = tmp_path.glob("earlier-*")
    assert json.loads((aside / "meta.json").read_text()) == old
    assert result.meta["id"] != old["id"]
    assert len(result.meta["sessions"]) == 1


def test_skipped_cases_are_written_once_each(tmp_path, monkeypatch):
    """Each rewrote all earlier ones: thousands took minutes without a measurement."""
    written, write = [], store.Store.write

    def counted(self, frame, name):
        written.append((name, len(frame)))
        write(self, frame, name)

    monkeypatch.setattr(store.Store, "write", counted)
    sizes = [f"{n}TiB" for n in range(100, 120)]
    run = bl.sweep(memory=sizes, out=tmp_path, progress=False)
    assert len(run.skipped) == 20
    assert [rows for name, rows in written if name == "skipped.csv"] == [0, 20]


def test_a_clock_that_is_set_back_hides_no_repeat(stops, tmp_path, monkeypatch):
    stops[0].stop = 6
    begin = store.Store.begin

    def set_back(self, *arguments):
        monkeypatch.setattr("time.time", lambda: 4e9)
        return begin(self, *arguments)

    monkeypatch.setattr(store.Store, "begin", set_back)
    monkeypatch.setattr("time.time", lambda: 4e9)  # files are older than this
    command = ["reproduce", "--memory", "8MiB", "--repeats", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130
    assert f"Finished repeats are in {tmp_path / 'timings.csv'}" in result.stderr
    stops[0].stop = len(stops[1]) + 1  # the same again, stopped before anything
    shutil.rmtree(tmp_path)
    assert "No repeat was finished" in CliRunner().invoke(app, command).stderr


def test_errors_are_found_before_anything_is_measured(stops, tmp_path):
    cases = [{}, {"pattern": "every:2"}]  # the second has no pages for 7/8 of memory
    with pytest.raises(ValueError, match="pattern every:2"):
        bl.compare(cases, memory="8MiB", out=tmp_path / "x")
    assert stops[1] == []
    assert not (tmp_path / "x").exists()


def test_two_threads_cannot_measure_at_once(monkeypatch):
    begun, ended = threading.Event(), threading.Event()
    take_turn = runner.take_turn

    def held(*arguments):
        begun.set()
        assert ended.wait(60)
        return take_turn(*arguments)

    monkeypatch.setattr(runner, "take_turn", held)
    arguments = {"memory": "8MiB", "repeats": 1, "progress": False}
    first = threading.Thread(target=bl.measure, kwargs=arguments)
    first.start()
    try:
        assert begun.wait(60)
        for call in (bl.measure, bl.sweep, bl.timeline):
            with pytest.raises(RuntimeError, match="another thread is measuring"):
                call(**arguments)
    finally:
        ended.set()
        first.join()
    monkeypatch.setattr(runner, "take_turn", take_turn)
    bl.measure(**arguments)


def test_memory_that_does_not_leave_the_process_is_noticed(monkeypatch):
    from balloonlab.measurement import on_lab

    operate = on_lab.operate

    def busy(case, ram):
        done = operate(case, ram)
        return done._replace(falls=done.falls._replace(rss_bytes=-300 * MIB))

    monkeypatch.setattr(on_lab, "operate", busy)
    with pytest.raises(RuntimeError, match="holds must fall"):
        bl.measure(memory="32MiB", repeats=1, progress=False)
    bl.measure(memory="32MiB", repeats=1, touched=False, progress=False)
    bl.measure(memory="32MiB", repeats=1, operation="deflate", progress=False)


def test_the_kernels_digest_is_stored(whole):
    run, _ = whole
    assert len(run.meta["kernels"]) == 16
    assert "kernels" in reading.MACHINE


@pytest.mark.parametrize("name", ["headline", "qemu", "sizes", "runs", "density", "guests"])
def test_the_data_that_come_along_are_whole(name, caplog):
    caplog.set_level(logging.WARNING)
    run = bl.load(bl.datasets.path(name))
    assert not caplog.records
    assert len(run.checks) == len(run.frame.drop_duplicates(["run_id", "repeat"]))
    assert np.issubdtype(run.checks["wall_ns"].dtype, np.integer)
