"""Sweeps: every combination, in turns, and nothing finished is lost whatever ends them."""

import gc
import json
import re
import shutil
import signal
import subprocess
import sys
import weakref
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.measurement import reading, store, tables
from balloonlab.measurement import runner as module
from balloonlab.measurement.case import Case
from balloonlab.sizes import MIB

pytestmark = [pytest.mark.once, pytest.mark.libraries]

GRID = {
    "memory": ["8MiB", "16MiB"],
    "protocol": ["pfn", "bitmap-v4"],
    "pattern": ["idle", "every:2"],
    "touched": [True, False],
    "balloon": [0.25, 0.875],
    "repeats": 2,
}
SMALL = {"memory": "8MiB", "protocol": ["pfn", "bitmap-v4"], "balloon": "4MiB", "repeats": 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    return bl.sweep(**GRID, out=out), out


@pytest.fixture
def turns(monkeypatch):
    """Every repeat and warm-up that is begun, as (case, number); Ctrl-C after `most`."""
    begun, take_turn = [], module.take_turn

    def listed(case, shared, run_id, number, bar):
        begun.append((case, number))
        if len(begun) > listed.most:
            raise KeyboardInterrupt
        return take_turn(case, shared, run_id, number, bar)

    listed.most = np.inf
    monkeypatch.setattr(module, "take_turn", listed)
    return begun, listed


def repeats_of(run):
    return set(zip(run.frame["run_id"], run.frame["repeat"], strict=True))


def test_every_combination_is_a_case(stored):
    run, _ = stored
    assert list(run.frame.columns) == tables.COLUMNS
    assert list(run.checks.columns) == tables.CHECK_COLUMNS + tables.OWN_CHECKS["lab"]
    names = ["memory_bytes", "balloon_bytes", "protocol", "pattern", "touched"]
    measured = run.frame[names].drop_duplicates()
    left_out = run.skipped[names]
    assert len(measured) + len(left_out) == len(pd.concat([measured, left_out])) == 32
    assert not pd.concat([measured, left_out]).duplicated().any()
    # Every second page is no more than half of them.
    assert ((left_out["pattern"] == "every:2") & (left_out["balloon_bytes"] > 8 * MIB // 2)).all()
    assert len(left_out) == 8
    assert (run.skipped["outcome"] == "skipped").all()
    assert run.skipped["reason"].str.contains("a balloon of that size needs a K of at most 1").all()
    assert (run.frame.groupby(["run_id", "repeat"]).size() == 7).all()
    assert (run.frame.groupby("run_id")["repeat"].nunique() == 2).all()
    assert run.frame["run_id"].nunique() == 24
    assert repeats_of(run) == set(zip(run.checks["run_id"], run.checks["repeat"], strict=True))
    by_protocol = run.frame.groupby("protocol")["discard"].unique()
    assert by_protocol["pfn"].tolist() == ["page"]
    assert by_protocol["bitmap-v4"].tolist() == ["range"]
    assert run.meta["finished"]


def test_cases_take_turns_in_a_random_order(turns):
    begun, _ = turns
    grid = {**GRID, "memory": "8MiB", "balloon": 0.25}
    bl.sweep(**grid)
    kinds = [case.memory_key for case, _ in begun]
    changes = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    assert len(changes) == len(set(kinds)) - 1  # each is mapped once
    for part in np.split(np.arange(len(begun)), changes):
        turns_here = [begun[i] for i in part]
        for (before, number), (case, following) in pairwise(turns_here):
            assert number != -1 or (before, 0) == (case, following)  # a warm-up, then its case
        numbers = [number for _, number in turns_here if number != -1]
        assert numbers == sorted(numbers)
        rounds = [[case for case, number in turns_here if number == n] for n in (-1, 0, 1)]
        assert set(rounds[0]) == set(rounds[1]) == set(rounds[2])
        for cases in rounds:
            keys = [case.pages_key for case in cases]
            assert sum(a != b for a, b in pairwise(keys)) == len(set(keys)) - 1
    first = list(begun)
    begun.clear()
    bl.sweep(**grid)
    assert begun == first
    begun.clear()
    bl.sweep(**grid, seed=1)
    assert begun != first
    assert set(begun) == set(first)


def test_one_page_set_is_held_at_a_time(monkeypatch):
    alive, made = weakref.WeakSet(), []
    make, once = Case._make_start, module.take_turn

    def noted(self):
        gc.collect()
        assert len(alive) == 0
        start = make(self)
        alive.add(start)
        made.append(self.pages_key)
        return start

    def checked(*arguments):
        gc.collect()
        assert len(alive) == 1
        return once(*arguments)

    monkeypatch.setattr(Case, "_make_start", noted)
    monkeypatch.setattr(module, "take_turn", checked)
    patterns = ["idle", "random", "geometric:4", "aged"]
    gc.freeze()  # what other tests left is not looked through again each time: half a minute
    try:
        run = bl.sweep(memory="8MiB", balloon=0.5, pattern=patterns, bitmaps=[0, 1, 32], repeats=2)
    finally:
        gc.unfreeze()
    assert run.skipped.empty
    # Once per round, for three cases each; one may end a round and begin the next.
    assert 2 * len(patterns) - 1 <= len(made) <= 2 * len(patterns)


def test_memory_that_runs_out_while_a_case_is_measured_skips_it(monkeypatch):
    def out_of_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(module, "take_turn", out_of_memory)
    run = bl.sweep(**SMALL)
    assert run.skipped["outcome"].tolist() == ["skipped", "skipped"]
    assert run.skipped["reason"].tolist() == ["MemoryError", "MemoryError"]
    assert run.frame.empty
    assert list(run.frame.columns) == tables.COLUMNS


def test_equal_cases_are_measured_once():
    run = bl.sweep(
        memory=["8MiB", 8 * MIB], protocol=["pfn", "pfn"], discard=[None, "page"], repeats=1
    )
    assert len(run.frame["run_id"].unique()) == 1


def test_a_case_without_room_or_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    once, fails = module.take_turn, True

    def flaky(case, *others):
        if fails and case.protocol == "pfn" and others[2] == 1:
            raise RuntimeError("memory went away")
        return once(case, *others)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "take_turn", flaky)
    grid = {**SMALL, "memory": ["8MiB", "1000TiB"], "out": tmp_path}
    run = bl.sweep(**grid)
    outcomes = run.skipped.set_index(["memory_bytes", "protocol"])["outcome"].to_dict()
    huge = 1000 << 40
    assert outcomes == {
        (8 * MIB, "pfn"): "failed", (huge, "pfn"): "skipped", (huge, "bitmap-v4"): "skipped",
    }  # fmt: skip
    reasons = run.skipped.groupby("outcome")["reason"].unique()
    assert reasons["failed"].tolist() == ["memory went away"]
    assert "or less would fit" in reasons["skipped"][0]
    # What a failed case had measured before it failed is on disk but in no result.
    assert run.frame["protocol"].unique().tolist() == ["bitmap-v4"]
    assert run.checks["protocol"].unique().tolist() == ["bitmap-v4"]
    assert_frame_equal(bl.load(tmp_path).skipped, run.skipped)
    # Nor is it a result after a second start that measures nothing.
    monkeypatch.setattr(module, "take_turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bl.sweep(**grid)
    assert bl.load(tmp_path).frame["protocol"].unique().tolist() == ["bitmap-v4"]
    monkeypatch.setattr(module, "take_turn", flaky)
    fails = False
    again = bl.sweep(**grid)
    assert set(again.skipped["memory_bytes"]) == {huge}
    assert (again.frame.groupby("protocol")["repeat"].nunique() == 3).all()


def test_the_same_call_goes_on_where_it_stopped(turns, tmp_path):
    begun, limit = turns
    limit.most = 5  # the first round with its warm-ups, and one more repeat
    with pytest.raises(KeyboardInterrupt):
        bl.sweep(**SMALL, out=tmp_path)
    stopped = bl.load(tmp_path)
    assert not stopped.meta["finished"]
    assert len(repeats_of(stopped)) == 3
    begun.clear()
    limit.most = np.inf
    run = bl.sweep(**SMALL, out=tmp_path)
    numbers = [number for _, number in begun]
    assert numbers.count(-1) == 2
    assert len(numbers) == 2 + 3
    assert len(repeats_of(run)) == len(run.checks) == 6
    assert len(run.meta["sessions"]) == 2
    assert len(run.frame.merge(stopped.frame)) == len(stopped.frame)
    assert run.frame["protocol"].unique().tolist() == SMALL["protocol"]  # case by case at the end
    begun.clear()
    assert_frame_equal(bl.sweep(**SMALL, out=tmp_path).frame, run.frame)
    assert begun == []


def test_a_case_that_is_finished_is_not_warmed_up(turns, tmp_path):
    begun, limit = turns
    limit.most = 7  # all but the last repeat
    with pytest.raises(KeyboardInterrupt):
        bl.sweep(**SMALL, out=tmp_path)
    interrupted = begun[-1]
    begun.clear()
    limit.most = np.inf
    bl.sweep(**SMALL, out=tmp_path)
    assert begun == [(interrupted[0], -1), interrupted]


def test_frames_come_back_as_they_were_measured(stored, tmp_path):
    run, out = stored
    loaded = bl.load(out)
    assert_frame_equal(loaded.frame, run.frame)
    assert_frame_equal(loaded.checks, run.checks)
    assert_frame_equal(loaded.skipped, run.skipped)
    assert loaded.meta == run.meta
    memory = bl.sweep(**SMALL)
    folder = store.Store(tmp_path)
    # Digits and an e would be a number, nothing at all a missing value.
    ids = dict(zip(memory.frame["run_id"].unique(), ["92e710452837", "000000000012"], strict=True))
    frame = memory.frame.assign(run_id=memory.frame["run_id"].map(ids), negotiated_protocol="")
    checks = memory.checks.assign(run_id=memory.checks["run_id"].map(ids))
    folder.append(frame)
    folder.append(checks, reading.CHECKS)
    folder.write_meta(memory.meta)
    back = bl.load(tmp_path)
    assert_frame_equal(back.frame, frame)
    assert_frame_equal(back.checks, checks)
    assert_frame_equal(back.skipped, memory.skipped)
    assert back.frame["touched"].dtype == bool


@pytest.mark.parametrize("name", [reading.TIMINGS, reading.CHECKS])
def test_a_file_torn_anywhere_loses_one_repeat_at_most(stored, tmp_path, name, rng):
    """Rows go to disk before their check: of a torn repeat the check is torn, or not there."""
    run, out = stored
    timings, checks = (out / reading.TIMINGS).read_bytes(), (out / reading.CHECKS).read_bytes()
    n_rows, whole = (7, timings) if name == reading.TIMINGS else (1, checks)
    begin = len(b"".join(whole.splitlines(keepends=True)[:-n_rows]))
    for cut in [begin, len(whole) - 1, *rng.integers(begin, len(whole), 6)]:
        folder = tmp_path / str(cut)
        shutil.copytree(out, folder, dirs_exist_ok=True)
        (folder / reading.CHECKS).write_bytes(b"".join(checks.splitlines(keepends=True)[:-1]))
        (folder / name).write_bytes(whole[:cut])
        left = bl.load(folder)
        assert_frame_equal(left.frame, run.frame.iloc[:-7])
        assert_frame_equal(left.checks, run.checks.iloc[:-1])
        pd.read_csv(folder / reading.TIMINGS)
        whole_again = bl.sweep(**GRID, out=folder)
        assert repeats_of(whole_again) == repeats_of(run)
        assert_frame_equal(whole_again.frame.iloc[:-7], left.frame)


def test_ends_between_the_files_of_a_start(tmp_path, monkeypatch):
    """Killed after meta.json, before any table: the same call begins."""
    write = store.Store.write

    def killed(self, frame, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.Store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        bl.sweep(**SMALL, out=tmp_path)
    monkeypatch.setattr(store.Store, "write", write)
    assert len(repeats_of(bl.sweep(**SMALL, out=tmp_path))) == 6


def changed(meta, name):
    if name in reading.VERSIONS:
        return {**meta, "versions": {**meta["versions"], name: "0.0.1"}}
    return {**meta, name: "other"}


@pytest.mark.parametrize("name", [*reading.MACHINE, *reading.VERSIONS])
def test_unlike_machines_and_code_are_not_pooled(stored, tmp_path, monkeypatch, name):
    run, out = stored
    here = module.describe_machine()
    monkeypatch.setattr(module, "describe_machine", lambda: changed(here, name))
    with pytest.raises(ValueError, match=rf"unlike in {name} \(.*choose another folder"):
        bl.sweep(**GRID, out=out)
    other = tmp_path / "other"
    shutil.copytree(out, other)
    (other / "meta.json").write_text(json.dumps(changed(run.meta, name)))
    with pytest.raises(ValueError, match=rf"unlike in {name} .*analyse them apart"):
        bl.pool([out, other])
    mixed = {**run.meta, "sessions": [here, changed(here | {"utc_time": "later"}, name)]}
    (other / "meta.json").write_text(json.dumps(mixed))
    with pytest.raises(ValueError, match=f"unlike in {name} .*measure it again"):
        bl.load(other)


def test_what_does_not_touch_the_timed_code_may_differ(stored, tmp_path, monkeypatch):
    run, out = stored
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    here = module.describe_machine()
    later = here | {"utc_time": "later", "python": "3.99.0", "memory_bytes": 1}
    monkeypatch.setattr(module, "describe_machine", lambda: later)
    assert_frame_equal(bl.sweep(**GRID, out=tmp_path).frame, run.frame)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"memory": ["8MiB"]}, r"memory=\[8388608, 16777216\], not \[8388608\]"),
        ({"repeats": 3}, "repeats=2, not 3"),
        ({"seed": 5}, "seed=0, not 5"),
        ({"pattern": np.arange(4)}, "pattern=.*pool"),
    ],
)
def test_another_sweep_does_not_go_on_in_the_same_folder(stored, arguments, words):
    _, out = stored
    before = (out / "timings.csv").read_bytes(), (out / "meta.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        bl.sweep(**GRID | arguments, out=out)
    assert before == ((out / "timings.csv").read_bytes(), (out / "meta.json").read_bytes())


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "timings.csv").write_text("mine\n")
    with pytest.raises(ValueError, match=r"timings.csv without meta.json"):
        bl.sweep(**SMALL, out=tmp_path)
    (tmp_path / "meta.json").write_text('{"command": "reproduce"}')
    with pytest.raises(ValueError, match="a run of reproduce, not a sweep"):
        bl.sweep(**SMALL, out=tmp_path)
    with store.Store(tmp_path).locked(), pytest.raises(ValueError, match="by another process"):
        bl.sweep(**SMALL, out=tmp_path)
    assert (tmp_path / "timings.csv").read_text() == "mine\n"


def test_pool_puts_runs_of_one_machine_together(stored, tmp_path):
    run, out = stored
    second = bl.sweep(**SMALL, out=tmp_path / "second")
    pooled = bl.pool([out, tmp_path / "second"])
    assert repeats_of(pooled) == repeats_of(run) | repeats_of(second)
    assert len(pooled.checks) == len(run.checks) + len(second.checks)
    assert_frame_equal(pooled.skipped, run.skipped)
    assert pooled.frame.dtypes.equals(run.frame.dtypes)
    assert pooled.meta["cpu_model"] == run.meta["cpu_model"]
    assert "arguments" not in pooled.meta
    assert [meta["id"] for meta in pooled.meta["pooled"]] == [
        run.meta["id"], second.meta["id"],
    ]  # fmt: skip
    shutil.copytree(out, tmp_path / "copy")
    with pytest.raises(ValueError, match="hold the same run"):
        bl.pool([out, tmp_path / "copy"])
    with pytest.raises(ValueError, match="at least one folder"):
        bl.pool([])
    with pytest.raises(TypeError, match="must be a list of folders"):
        bl.pool(str(out))


def test_arrays_are_patterns_with_names_of_their_own(tmp_path):
    pages = np.random.default_rng(3).permutation(2048)[:500]
    more = np.random.default_rng(4).permutation(2048)[:500]
    grid = {"memory": "8MiB", "pattern": ["idle", pages, more], "order": ["as is", "shuffled"]}
    run = bl.sweep(**grid, repeats=1, out=tmp_path)
    sizes = run.frame.drop_duplicates("run_id").groupby("pattern")["n_pages"].unique()
    assert sizes.pop("idle").tolist() == [1792]
    assert sizes.index.str.match("custom:[0-9a-f]{12}$").all()
    assert [n.tolist() for n in sizes] == [[500], [500]]
    grid["pattern"] = ["idle", pages[::-1], more]
    with pytest.raises(ValueError, match="holds a sweep with pattern="):
        bl.sweep(**grid, repeats=1, out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"protocol": ["pfn", "bitmap-v5"]}, ValueError, "protocol must be one of"),
        ({"pattern": ["idle", "checkers"]}, ValueError, "pattern must be one of"),
        ({"order": "sideways"}, ValueError, "order must be one of as is, ascending"),
        ({"memory": ["8MiB", "8 bushels"]}, ValueError, "memory must be a number"),
        ({"memory": []}, ValueError, "memory must have at least one value"),
        ({"balloon": 1.5}, ValueError, "above 0 and below 1 as a share"),
        ({"pattern": [1, 2, 3]}, TypeError, r"give page numbers as numpy.array"),
        ({"protocl": "pfn"}, TypeError, "unknown argument protocl: did you mean protocol"),
        ({"pattern": ["idle", "idel"]}, ValueError, "pattern must be one of"),
        ({"order": "shufled"}, ValueError, "did you mean 'shuffled'"),
        ({"protocol": "bitmap-4"}, ValueError, "did you mean 'bitmap-v4'"),
        ({"out": ""}, ValueError, "out must name a folder"),
        ({"pattern": np.array([0.5])}, TypeError, "pattern must be an array of integers"),
        ({"repeats": 0}, ValueError, "repeats must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"touched": ["yes"]}, TypeError, "touched must be True or False"),
    ],
)
def test_sweep_refuses_before_anything_is_measured(arguments, error, words, tmp_path):
    with pytest.raises(error, match=words):
        bl.sweep(**{"memory": "8MiB", "out": tmp_path / "x", **arguments})
    assert not (tmp_path / "x").exists()


def test_totals_say_what_the_cases_differ_in(stored):
    run, _ = stored
    table = bl.totals(run.frame)
    assert len(table) == 24
    assert (table["repeats"] == 2).all()
    assert list(table.columns[:3]) == ["protocol", "discard", "pattern"]
    assert (table["min_ms"] <= table["median_ms"]).all()
    row = table.iloc[0]
    frame = run.frame
    for name in ("protocol", "discard", "pattern", "touched", "memory_bytes", "balloon_bytes"):
        frame = frame[frame[name] == row[name]]
    assert len(frame["run_id"].unique()) == 1
    of_repeats = frame.groupby("repeat")["time_ns"].sum() / 1e6
    assert row["max_ms"] == of_repeats.max()
    assert row["median_ms"] == of_repeats.median()


def test_the_command_takes_options_several_times(tmp_path):
    out = tmp_path / "out"
    options = ["--memory", "8MiB", "--memory", "16MiB", "--balloon", "0.5", "--balloon", "1MiB"]
    options += ["--touched", "--untouched", "--pattern", "idle", "--pattern", "huge"]
    command = ["sweep", *options, "--repeats", "1", "--out", str(out)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "12 cases measured, 4 left out" in result.stdout
    assert result.stdout.count("skipped, 2 cases: balloon must be whole huge pages") == 2
    run = bl.load(out)
    assert set(run.frame["balloon_bytes"]) == {MIB, 4 * MIB, 8 * MIB}
    assert set(run.frame["touched"]) == {True, False}
    refused = CliRunner().invoke(app, ["sweep", "--memory", "8MiB", "--out", str(out)])
    assert refused.exit_code == 2
    assert "repeat its arguments to go on" in refused.stderr


DROPPED = re.compile(r"Exception ignored in: (?s:.*?)KeyboardInterrupt: *\n")
"""An interrupt that came in the callback of a weak reference: Python prints it and goes on."""


def test_killed_and_interrupted_at_random_moments_it_ends_up_whole(tmp_path, rng):
    command = [sys.executable, "-m", "balloonlab", "sweep", "--out", str(tmp_path)]
    command += ["--memory", "8MiB", "--memory", "16MiB", "--protocol", "pfn"]
    command += ["--protocol", "bitmap-v4", "--touched", "--untouched", "--repeats", "20"]
    kept = set()
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        before = n_checks(tmp_path)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while n_checks(tmp_path) <= before and process.poll() is None:
            wait(process, 0.02)
        wait(process, rng.uniform(0, 0.2))
        while process.poll() is None:
            process.send_signal(how)
            wait(process, 10)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in DROPPED.sub("", errors)
        assert ("the same command goes on" in errors) == (how == signal.SIGINT)
        pd.read_csv(tmp_path / "timings.csv")
        run = bl.load(tmp_path)
        assert kept < repeats_of(run)
        assert (run.frame.groupby(["run_id", "repeat"]).size() == 7).all()
        kept = repeats_of(run)
    run = bl.sweep(
        memory=["8MiB", "16MiB"], protocol=["pfn", "bitmap-v4"], touched=[True, False],
        repeats=20, out=tmp_path,
    )  # fmt: skip
    assert run.meta["finished"]
    assert len(repeats_of(run)) == len(run.checks) == 8 * 20
    assert len(run.frame) == 7 * 8 * 20


def wait(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def n_checks(folder):
    path = folder / "checks.csv"
    return max(1, path.read_bytes().count(b"\n")) if path.exists() else 1


def test_a_sweep_that_measured_nothing_leaves_its_folder_free(tmp_path):
    none = bl.sweep(memory="8MiB", pattern="every:2", out=tmp_path)
    assert none.frame.empty
    assert not none.skipped.empty
    run = bl.sweep(memory="8MiB", repeats=1, out=tmp_path)
    assert run.skipped.empty
    assert len(bl.load(tmp_path).checks) == 1
    with pytest.raises(ValueError, match="choose another folder"):
        bl.sweep(memory="16MiB", repeats=1, out=tmp_path)


def test_what_cannot_go_together_is_skipped_and_what_never_can_be_is_refused():
    grid = {"memory": "8MiB", "repeats": 1}
    run = bl.sweep(**grid, protocol=["madvise", "pfn"], discard="page")
    assert run.frame["protocol"].unique().tolist() == ["pfn"]
    assert run.skipped["reason"].str.contains("discard must be 'single'").all()
    with pytest.raises(ValueError, match="did you mean 'pfn'"):
        bl.sweep(**grid, protocol="pfm")
    with pytest.raises(ValueError, match="memory must be at least one 4 KiB page"):
        bl.sweep(**grid | {"memory": 0})


def test_pool_takes_runs_too(stored):
    run, out = stored
    other = bl.measure("8MiB", repeats=1)
    assert len(bl.pool([out, other]).checks) == len(run.checks) + 1
