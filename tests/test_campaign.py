"""The campaign: its plan against the shipped data, its order, what it resumes, joins and reports.

A start is measured in this process where it does not matter that it has one of its own.
"""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import reduce
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.campaign import NOT_PART, PLAN, Row, drift, joining, plan, running, start
from balloonlab.cli.commands import app
from balloonlab.measurement import api, starts, surroundings
from balloonlab.measurement.options import TABLE
from balloonlab.measurement.setups import make_case
from balloonlab.measurement.surroundings import Noise, NoiseMeter, describe_surroundings
from balloonlab.terminal import to_text

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("error")]

DATA = Path(bl.__file__).parents[1] / "data"
QUIET = Noise(0.0, 0.0, 1.0)
PAIR = {"memory": "8MiB", "protocol": ["pfn", "bitmap-v4"], "repeats": 2}
RUN = Row("small", "a run", "sweep", PAIR, {}, 2)
TABLE_ROW = Row("zeroes", "a table", "harness.zero_pages", {"memory": "8MiB", "repeats": 2}, {}, 3)
REFERENCE = Row("reference", "", "measure", {"memory": "8MiB", "protocol": "pfn", "repeats": 2})
BY_NAME = {row.name: row for row in PLAN}


def functions_of(row):
    return reduce(getattr, row.function.split("."), bl)


def in_this_process(patch):
    """A plan of two rows, quiet, measured in this process; returns the list of what was."""
    measured = []

    def here(function, arguments, number, run, folder):
        measured.append((run.partition("-")[2], number))
        start.call_as_start(function, arguments, number, run, str(folder))

    patch.setattr(plan, "PLAN", (RUN, TABLE_ROW))
    patch.setattr(running, "REFERENCE", REFERENCE)
    patch.setattr(start, "_run_child", here)
    patch.setattr(NoiseMeter, "since", lambda *_: QUIET)
    return measured


@pytest.fixture
def small(monkeypatch):
    return in_this_process(monkeypatch)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Starts that were measured once, by function and arguments."""
    return tmp_path_factory.mktemp("templates"), {}


@pytest.fixture
def copied(small, monkeypatch, templates):
    """As `small`, but a start is a copy of one that was measured; only its number differs."""
    folder, made = templates

    def copy(function, arguments, number, run, out):
        small.append((run.partition("-")[2], number))
        key = json.dumps([function, arguments])
        if key not in made:
            made[key] = folder / str(len(made))
            start.call_as_start(function, arguments, 0, "template", str(made[key]))
        shutil.copytree(made[key], out)
        for path in (*out.rglob("timings.csv"), *out.rglob("checks.csv")):
            table = pd.read_csv(path, dtype=str, na_filter=False)
            table.assign(start=number).to_csv(path, index=False)

    monkeypatch.setattr(start, "_run_child", copy)
    return small


def starts_only(measured):
    return [unit for unit in measured if unit[0] != "reference"]


# The plan


def test_the_plan_covers_every_folder_of_the_data():
    named = {row.name for row in (*PLAN, plan.REFERENCE)} | set(NOT_PART)
    assert {path.name for path in DATA.iterdir()} <= named
    assert not {row.name for row in PLAN} & set(NOT_PART)


def test_headline_cases_have_ten_starts_and_the_others_five():
    ten = {row.name for row in PLAN if row.starts == 10}
    assert ten == {"headline", "kvm", "linux", "qemu"}
    assert {row.starts for row in PLAN if row.name not in ten} == {5, 1}
    assert {row.name for row in PLAN if row.starts == 1} == {"timeline-pfn", "timeline-bitmap"}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("row", [*PLAN, plan.REFERENCE], ids=lambda row: row.name)
def test_a_row_is_a_call_that_can_be(row, quick):
    """Of measured cases each is made, which checks sizes, protocols and options."""
    arguments = row.arguments_of(quick)
    assert json.loads(json.dumps(arguments)) == arguments
    inspect.signature(functions_of(row)).bind(**arguments, out="folder", progress=False)
    if row.function == "sweep":
        names = [name for name in arguments if name in TABLE]
        values = [api.values_of(name, arguments[name]) for name in names]
        for one in product(*values):
            assert make_case(**dict(zip(names, one, strict=True))).repeats == 1
    elif row.function == "compare":
        common = {name: value for name, value in arguments.items() if name != "cases"}
        for one in arguments["cases"]:
            make_case(**common, **one)


def cases_of(arguments):
    """The cases of a stored run or of a row, as sets of options, but for sizes and repeats."""
    left = ("memory", "balloon", "repeats", "linux", "modules", "seed")
    common = {name: value for name, value in arguments.items() if name != "cases"}
    for case in arguments.get("cases", [{}]):
        axes = {name: case.get(name, common.get(name, row.default)) for name, row in TABLE.items()}
        axes = {name: value for name, value in axes.items() if name not in left}
        lists = [value if isinstance(value, list) else [value] for value in axes.values()]
        for one in product(*lists):
            yield frozenset(zip(axes, one, strict=True))


@pytest.mark.parametrize("name", [row.name for row in PLAN if row.function in ("sweep", "compare")])
def test_a_row_has_the_cases_that_its_folder_had(name):
    stored = json.loads((DATA / name / "meta.json").read_text())["arguments"]
    assert set(cases_of(BY_NAME[name].arguments)) == set(cases_of(stored))


def test_quick_guests_are_small_and_their_starts_few():
    for row in PLAN:
        assert row.starts_of(True) == min(row.starts, 2 if row.starts == 10 else 1)
        memory = row.arguments_of(True).get("memory", "256MiB")
        recorded = row.name in ("drivers", "encodings-guests")  # the smallest that were recorded
        for size in memory if isinstance(memory, list) else [memory]:
            assert bl.sizes.parse_pages(size, "memory") <= (1 << 19 if recorded else 1 << 16)


def test_the_order_is_seeded_and_interleaved():
    units = plan.order(PLAN, 0)
    assert units == plan.order(PLAN, 0)
    assert units != plan.order(PLAN, 1)
    assert len(units) == sum(row.starts for row in PLAN)
    names = [unit.row.name for unit in units]
    for row in PLAN:
        assert [unit.number for unit in units if unit.row is row] == [*range(row.starts)]
        places = [names.index(row.name), len(names) - 1 - names[::-1].index(row.name)]
        assert row.starts == 1 or places[1] - places[0] > len(names) // 2, "from begin to end"
    ten = [BY_NAME[name] for name in ("headline", "kvm", "linux", "qemu")]
    mixed = [unit.row.name for unit in plan.order(ten, 0)]
    assert mixed != [row.name for _ in range(10) for row in ten], "shuffled"


def test_a_place_does_not_depend_on_other_rows():
    few = {"headline", "runs", "frees"}
    whole = [unit for unit in plan.order(PLAN, 3) if unit.row.name in few]
    assert plan.order(plan.rows_of(few), 3) == whole


def test_rows_are_named():
    assert [row.name for row in plan.rows_of("kvm")] == ["kvm"]
    with pytest.raises(ValueError, match=r"only must be one of .* did you mean 'headline'"):
        plan.rows_of(["headlin"])


# One campaign


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A campaign that was really measured, its folder, and what was measured for it."""
    with pytest.MonkeyPatch.context() as patch:
        measured = in_this_process(patch)
        folder = tmp_path_factory.mktemp("campaign")
        done = running.run(folder)
        n = len(measured)
        again = running.run(folder)
        return folder, done, again, measured[:n], measured[n:]


def test_starts_become_folders_that_statistics_can_read(whole):
    folder, done, _, measured, _ = whole
    assert done.finished
    pairs = [("small", 0), ("small", 1), ("zeroes", 0), ("zeroes", 1), ("zeroes", 2)]
    assert sorted(starts_only(measured)) == pairs
    assert measured[0] == ("reference", 0), "first of all"
    assert measured[-1] == ("reference", 1), "and last"
    run = bl.load(folder / "small")
    assert run.frame["run_id"].nunique() == 2
    assert run.frame["start"].unique().tolist() == [0, 1]
    assert run.checks.groupby("start")["repeat"].unique().map(sorted).tolist() == [[0, 1], [2, 3]]
    times = starts.unit_times(run.frame)
    assert [one.size for one in times] == [2, 2], "a start is one"
    by_hand = run.frame.groupby(["run_id", "start", "repeat"])["time_ns"].sum()
    medians = by_hand.groupby(["run_id", "start"]).median()
    assert times.map(sum).sum() == pytest.approx(medians.sum())
    assert bl.ratios(run)["n"].tolist() == [2]
    assert [one["start"] for one in run.meta["sessions"]] == [0, 1]
    assert run.meta["starts"] == 2
    assert run.meta["surroundings"]["halt_poll_ns"] == describe_surroundings()["halt_poll_ns"]
    assert all(
        "load_average" in one and "load_average" in one["surroundings"]
        for one in run.meta["sessions"]
    )
    assert run.meta["campaign"]["limits"] == start.LIMITS
    table = pd.read_csv(folder / "zeroes" / "zero-pages.csv")
    assert table["start"].unique().tolist() == [0, 1, 2]
    assert not table.duplicated(["zero_share", "answer", "repeat"]).any()


def test_rows_are_those_that_the_starts_measured(whole):
    joined = bl.load(whole[0] / "small").frame
    for number in (0, 1):
        own = bl.load(whole[0] / "starts" / "small" / str(number)).frame
        mine = joined[joined["start"] == number]
        assert mine["time_ns"].tolist() == own["time_ns"].tolist()
        assert mine["run_id"].tolist() == own["run_id"].tolist()


def test_a_finished_campaign_measures_nothing(whole):
    _, _, again, _, measured = whole
    assert again.finished
    assert measured == [], "not even the reference"


def test_ctrl_c_loses_the_start_in_hand_alone(copied, monkeypatch, tmp_path):
    inner, n = start._run_child, 0

    def interrupted(function, arguments, number, run, folder):
        nonlocal n
        n += 1
        inner(function, arguments, number, run, folder)
        if n == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(start, "_run_child", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(tmp_path)
    lost = copied[-1]
    running.run(tmp_path)
    assert starts_only(copied).count(lost) == 2
    assert len(starts_only(copied)) == 6
    assert bl.load(tmp_path / "small").frame["start"].nunique() == 2


def test_a_start_that_fails_is_told_and_measured_again(copied, monkeypatch, tmp_path):
    inner = start._run_child

    def failing(function, *args):
        if function == "sweep":
            raise start.StartError("no such guest")
        inner(function, *args)

    monkeypatch.setattr(start, "_run_child", failing)
    said = []
    done = running.run(tmp_path, say=said.append)
    assert not done.finished
    rows = done.rows.set_index("folder")
    assert rows.loc["small", "problem"] == "no such guest"
    assert rows.loc["zeroes", "problem"] == ""
    assert (tmp_path / "zeroes").exists()
    assert not (tmp_path / "small").exists(), "never silently less"
    assert sum("FAILED, no such guest" in line for line in said) == 4, "each is tried twice"
    monkeypatch.setattr(start, "_run_child", inner)
    assert running.run(tmp_path).finished
    assert starts_only(copied)[3:] == [("small", 0), ("small", 1)]


def test_noise_makes_a_start_be_measured_again(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(running._Runner, "_watch_drift", lambda *_, **__: None)
    noise = {"first": Noise(50.0, 0.0, 1.0), "second": Noise(0.1, 1.5, 2.0)}
    monkeypatch.setattr(NoiseMeter, "since", lambda *_: noise["first"])
    done = running.run(tmp_path, only="small")
    assert starts_only(copied) == [("small", 0), ("small", 1)] * 2, "twice in a call"
    assert done.rows["noisy"].tolist() == [2]
    assert not done.finished
    assert bl.load(tmp_path / "small").meta["sessions"][0]["steal_percent"] == 50.0
    monkeypatch.setattr(NoiseMeter, "since", lambda *_: noise["second"])
    running.run(tmp_path, only="small")
    assert bl.load(tmp_path / "small").meta["sessions"][0]["others"] == 1.5, "the quieter stays"
    monkeypatch.setattr(NoiseMeter, "since", lambda *_: noise["first"])
    running.run(tmp_path, only="small")
    assert bl.load(tmp_path / "small").meta["sessions"][0]["others"] == 1.5
    monkeypatch.setattr(NoiseMeter, "since", lambda *_: QUIET)
    assert running.run(tmp_path, only="small").finished
    n = len(copied)
    running.run(tmp_path, only="small")
    assert len(copied) == n


def test_other_arguments_are_measured_anew(copied, monkeypatch, tmp_path):
    running.run(tmp_path, only="small")
    other = replace(RUN, arguments=RUN.arguments | {"memory": "16MiB"})
    monkeypatch.setattr(plan, "PLAN", (other,))
    running.run(tmp_path)
    assert bl.load(tmp_path / "small").frame["memory_bytes"].unique().tolist() == [16 << 20]


def test_starts_that_lack_a_case_are_found_and_measured_again(copied, tmp_path):
    running.run(tmp_path, only="small")
    folder = tmp_path / "starts" / "small" / "1"
    frame, checks = (
        pd.read_csv(folder / name, dtype=str) for name in ("timings.csv", "checks.csv")
    )
    for table, name in ((frame, "timings.csv"), (checks, "checks.csv")):
        table[table["protocol"] == "pfn"].to_csv(folder / name, index=False)
    done = running.run(tmp_path, only="small")
    assert "starts 1 lack cases that others have" in done.rows["problem"].iloc[0]
    n = len(starts_only(copied))
    assert running.run(tmp_path, only="small").finished
    assert starts_only(copied)[n:] == [("small", 1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quick": True}, "repeat its arguments to go on"),
        ({"seed": 1}, "repeat its arguments to go on"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"only": "smal"}, "did you mean 'small'"),
    ],
)
def test_another_campaign_in_the_folder_is_refused(given, message, copied, tmp_path):
    running.run(tmp_path, only="small")
    with pytest.raises(ValueError, match=message):
        running.run(tmp_path, **given)


def test_other_code_is_refused(copied, tmp_path):
    running.run(tmp_path, only="small")
    state = json.loads((tmp_path / "campaign.json").read_text())
    state["machine"]["kernels"] = "0" * 16
    (tmp_path / "campaign.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="unlike in kernels"):
        running.run(tmp_path, only="small")


def test_what_others_made_is_never_replaced(small, tmp_path):
    bl.measure(memory="8MiB", repeats=1, progress=False, out=tmp_path / "small")
    with pytest.raises(ValueError, match="a folder small that this campaign did not make"):
        running.run(tmp_path)
    with pytest.raises(ValueError, match="holds a run"):
        running.run(tmp_path / "small")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must name a folder"):
        running.run(tmp_path / "file")
    assert small == []


def test_an_only_start_is_left_as_it_is(copied, monkeypatch, tmp_path):
    row = Row("line", "", "timeline", {"memory": "8MiB", "protocol": "pfn"}, starts=1)
    monkeypatch.setattr(plan, "PLAN", (row,))
    assert running.run(tmp_path).finished
    whole, own = (
        bl.load_timeline(tmp_path / place) for place in ("line", Path("starts", "line", "0"))
    )
    pd.testing.assert_frame_equal(whole, own)
    assert whole.attrs["source"] == "lab"


def test_encodings_are_joined_with_the_runs_within(copied, monkeypatch, tmp_path):
    arguments = {
        "patterns": ["random"], "memory": "8MiB", "balloon": "4MiB", "orders": ["list"],
        "protocols": ["pfn", "bitmap-v4", "bound"], "guests": ["thread"], "repeats": 1,
    }  # fmt: skip
    monkeypatch.setattr(plan, "PLAN", (Row("words", "", "encodings", arguments, {}, 2),))
    assert running.run(tmp_path).finished
    table = pd.read_csv(tmp_path / "words" / "encodings.csv")
    assert table["start"].tolist() == [0] * 3 + [1] * 3
    within = bl.load(tmp_path / "words" / "measured" / "0").frame
    assert within["start"].unique().tolist() == [0, 1]


# Processes


SCRIPT = """
import sys
from balloonlab.campaign import Row, plan, running
row = Row("small", "", "sweep", {"memory": "8MiB", "protocol": ["pfn"], "repeats": 1}, {}, 40)
plan.PLAN = (row,)
running._Runner._watch_drift = lambda *_, **__: None
running.run(sys.argv[1])
"""


def test_a_killed_campaign_leaves_no_child_and_goes_on(small, monkeypatch, tmp_path):
    """The first start is whole, the second is killed with its parent."""
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path], stderr=subprocess.PIPE)
    whole, until = tmp_path / "starts" / "small" / "0" / start.MARK, time.monotonic() + 120
    while not (whole.exists() and psutil.Process(parent.pid).children()):
        assert parent.poll() is None, parent.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children, "a start is a process of its own"
    time.sleep(1.0)  # until it has asked to end with its parent
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    there = sorted(int(path.parent.name) for path in tmp_path.glob("starts/small/*/start.json"))
    arguments = {"memory": "8MiB", "protocol": ["pfn"], "repeats": 1}
    row = Row("small", "", "sweep", arguments, {}, len(there) + 1)
    monkeypatch.setattr(plan, "PLAN", (row,))
    before = [json.loads((tmp_path / f"starts/small/{n}/start.json").read_text()) for n in there]
    quiet = [one["start"] for one in before if not Noise(**one["noise"]).beyond(start.LIMITS)]
    assert running.run(tmp_path).finished
    assert ("small", len(there)) in small
    assert not {("small", n) for n in quiet} & set(small)
    assert bl.load(tmp_path / "small").frame["start"].nunique() == len(there) + 1


def test_a_child_says_why_it_failed(tmp_path):
    with pytest.raises(start.StartError, match="memory must be at least one 4 KiB page"):
        start.measure(tmp_path / "0", "sweep", {"memory": 0}, 0, "run")
    assert not (tmp_path / "0").exists()


def test_a_start_without_all_its_cases_is_not_whole(small, tmp_path):
    skipped = {"memory": "8MiB", "pattern": "every:2", "repeats": 1}  # it has not as many pages
    with pytest.raises(start.StartError, match="none of its cases was measured"):
        start.measure(tmp_path / "0", "sweep", skipped, 0, "run")


# Drift, noise and the machine


def test_the_drift_is_reported_and_stored(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "REFERENCE_EVERY_S", {False: 0.0, True: 0.0})
    done = running.run(tmp_path)
    table = pd.read_csv(tmp_path / "drift.csv")
    assert len(table) == 6, "before each of five, and at the end"
    (found,) = done.drift
    assert found["n"] == 6
    assert found["median_ms"] == pytest.approx(table["total_ms"].median(), abs=1e-3)
    stored = json.loads((tmp_path / "campaign.json").read_text())["drift"]
    assert stored == done.drift == bl.load(tmp_path / "small").meta["campaign"]["drift"]
    assert bl.load(tmp_path / "reference").frame["start"].nunique() == 6


def test_a_drift_has_its_slope():
    times = pd.date_range("2026-01-01", periods=7, freq="h").strftime("%Y-%m-%dT%H:%M:%S+00:00")
    table = pd.DataFrame({"start": range(7), "utc_time": times, "protocol": "pfn"})
    (found,) = drift.summary(table.assign(total_ms=100.0 + np.arange(7)))
    assert found["percent_per_hour"] == pytest.approx(100 / 103, rel=1e-3)
    assert found["low"] <= found["percent_per_hour"] <= found["high"]
    assert (found["least_ms"], found["median_ms"], found["greatest_ms"]) == (100, 103, 106)
    assert found["spread_percent"] == pytest.approx(100 * np.std(range(7), ddof=1) / 103, rel=1e-3)
    (few,) = drift.summary(table.assign(total_ms=1.0)[:2])
    assert few["percent_per_hour"] is None


def test_noise_is_what_others_take(monkeypatch):
    """Of 20 processor seconds 4 were ours, 6 others', 1 stolen."""
    fields = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    kind = type(psutil.cpu_times())
    rest = len(kind._fields) - len(fields)
    moments = iter([(0,) * 8, (8, 0, 1, 8, 1, 0, 1, 1)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: kind(*next(moments), *(0,) * rest))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    own = iter([(0.0, 0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 2.0, 1.0, 10.0)])
    monkeypatch.setattr(surroundings.os, "times", lambda: next(own))
    before = NoiseMeter()
    noise = NoiseMeter().since(before)
    assert noise.steal_percent == 5.0
    assert noise.others == pytest.approx(0.6)
    assert noise.beyond({"steal_percent": 2, "others": 0.7}) == ["steal_percent 5.00, over 2"]


def test_own_work_is_no_noise():
    before = NoiseMeter()
    code = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = NoiseMeter()
    assert after._own_s - before._own_s >= 0.5
    assert after._busy_s - before._busy_s >= 0.45


MACHINE = {
    "sys/class/dmi/id/sys_vendor": "QEMU\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpuidle/current_driver": "none\n",
    "sys/devices/system/cpu/cpuidle/current_governor": "menu\n",
    "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
    "sys/module/page_reporting/parameters/page_reporting_order": "9\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/bus/virtio/devices/virtio0/device": "0x0005\n",
    "sys/bus/virtio/devices/virtio0/features": "01100100" + "0" * 56 + "\n",
    "sys/kernel/mm/damon/admin/kdamonds/0/state": "on\n",
    "sys/kernel/mm/damon/admin/kdamonds/0/contexts/0/schemes/0/action": "pageout\n",
    "sys/kernel/mm/damon/admin/kdamonds/1/state": "off\n",
    "proc/cmdline": "root=/dev/vda quiet mitigations=off init=/x console=ttyS0 -- secret\n",
    "proc/loadavg": "0.50 0.25 0.10 1/100 4242\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\n",
}


def test_the_machine_is_described(tmp_path):
    for name, text in MACHINE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = describe_surroundings(tmp_path)
    assert found["hypervisor"] == "qemu"
    assert found["governor"] == "performance, powersave"
    assert found["idle"] == {"driver": "none", "governor": "menu"}
    assert found["halt_poll_ns"] == "200000"
    assert found["free_page_reporting"] == "yes"
    assert found["page_reporting_order"] == "9"
    assert found["damon"] == "on: pageout"
    assert found["ksm"].startswith("unknown: no such file")
    assert found["thp"]["enabled"] == "always [madvise] never"
    assert found["thp"]["defrag"].startswith("unknown: no such file, /sys/kernel/mm/")
    assert found["flags"] == ["quiet", "mitigations=off"], "no places, nothing of others"
    assert found["load_average"] == [0.5, 0.25, 0.1]
    assert found["steal_ticks"] == 8


def test_what_cannot_be_read_is_said(tmp_path):
    found = describe_surroundings(tmp_path)
    values = [found.pop("thp"), found.pop("idle"), found]
    for value in (one for each in values for one in each.values()):
        assert value.startswith("unknown: no such file, /")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("many\n")
    (tmp_path / "proc" / "cpuinfo").write_text("flags\t\t: fpu hypervisor\n")
    found = describe_surroundings(tmp_path)
    assert "cannot be understood" in found["load_average"]
    assert found["hypervisor"].startswith("unknown: there is one")
    (tmp_path / "proc" / "cpuinfo").write_text("flags\t\t: fpu\n")
    assert describe_surroundings(tmp_path)["hypervisor"] == "none"


def test_every_run_says_what_was_around_it():
    meta = bl.measure(memory="8MiB", repeats=1, progress=False).meta
    assert set(meta["surroundings"]) == set(describe_surroundings())


# Data of earlier versions, and of one process


def test_runs_of_one_process_have_start_0(tmp_path):
    run = bl.measure(memory="8MiB", repeats=3, progress=False, out=tmp_path)
    for name in ("timings.csv", "checks.csv"):  # as they were before starts were told apart
        pd.read_csv(tmp_path / name).drop(columns="start").to_csv(tmp_path / name, index=False)
    assert bl.load(tmp_path).frame["start"].unique().tolist() == [0]
    assert run.frame["start"].unique().tolist() == run.checks["start"].unique().tolist() == [0]
    (times,) = starts.unit_times(run.frame)
    assert times.size == 3, "all that there is of a single start"


def test_ways_are_warmed_up_once_in_a_start(monkeypatch):
    from balloonlab.measurement import runner

    begun, inner = [], runner.take_turn
    monkeypatch.setattr(
        runner, "take_turn", lambda case, *a: begun.append((case.protocol, a[2])) or inner(case, *a)
    )
    cases = {"memory": ["8MiB", "16MiB"], "protocol": ["pfn", "bitmap-v4"], "repeats": 1}
    bl.sweep(**cases, progress=False)
    assert sum(number == -1 for _, number in begun) == 4
    begun.clear()
    with starts.as_start(3, "whole"):
        frame = bl.sweep(**cases, progress=False).frame
    assert sorted(one for one, number in begun if number == -1) == ["bitmap-v4", "pfn"]
    assert frame["start"].unique().tolist() == [3]
    for protocol in ("pfn", "bitmap-v4"):
        first = next(number for one, number in begun if one == protocol)
        assert first == -1, "before any repeat of its way"


# The command


def test_the_command_lists_its_plan(tmp_path):
    result = CliRunner().invoke(
        app, ["campaign", "--list", "--only", "headline", "--only", "frees", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "15 starts of 2 folders" in result.output
    assert "nothing is known" not in result.output
    assert "traces: pages of real guests, no times" in result.output
    assert list(tmp_path.iterdir()) == []
    quick = CliRunner().invoke(app, ["campaign", "--list", "--quick", "--only", "frees"])
    assert "without frees, of which nothing is known" in " ".join(quick.output.split())


def test_the_command_measures_and_says_what_there_is(copied, tmp_path):
    result = CliRunner().invoke(app, ["campaign", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "1 of 5: " in result.output
    assert "Drift of the reference, pfn: 2 starts, median" in result.output
    listed = CliRunner().invoke(app, ["campaign", "--list", "--out", str(tmp_path)])
    assert "5 starts of 2 folders" in listed.output
    assert "unknown" not in listed.output.split("No part")[0], "there are starts to tell from"


def test_the_command_fails_where_something_is_missing(small, monkeypatch, tmp_path):
    def failing(*_):
        raise start.StartError("no memory")

    monkeypatch.setattr(start, "_run_child", failing)
    result = CliRunner().invoke(app, ["campaign", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "small is not there: no memory" in result.output


def test_noise_is_explained(tmp_path):
    from balloonlab.campaign.report import render

    rows = {"folder": ["small"], "starts": 2, "whole": 2, "noisy": 1, "minutes": 0.1, "problem": ""}
    text = to_text(render(running.Campaign(tmp_path, pd.DataFrame(rows))))
    assert "beyond steal_percent 2, others 0.25" in text
    assert joining.joined_id(tmp_path / "nothing") is None
