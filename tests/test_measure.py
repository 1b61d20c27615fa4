"""Inflating real memory end to end, and refusing to where it makes no sense."""

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import balloonlab as bl
from balloonlab.host import GuestRam
from balloonlab.kernels import device
from balloonlab.measurement import resources, stages, tables
from balloonlab.measurement.machine import machine
from balloonlab.measurement.setups import make_case
from balloonlab.pages import age
from balloonlab.sizes import GIB, MIB

from .strategies import DIVERSE, FAITHFUL

CASES = [
    {"protocol": protocol, "discard": discard, "touched": touched, "operation": operation}
    for protocol in DIVERSE
    for discard in ("page", "range")
    for touched in (True, False)
    for operation in ("inflate", "deflate")
]


@pytest.fixture(scope="module")
def run():
    return bl.compare(CASES, memory="32MiB", repeats=2)


def test_the_frame_is_tidy(run):
    frame = run.frame
    assert list(frame.columns) == tables.COLUMNS
    assert not frame.isna().any().any()
    assert frame["run_id"].nunique() == len(CASES)
    assert (frame["source"] == "lab").all()
    assert set(frame["stage"]) == set(stages.STAGES)
    for operation, missing in (("inflate", "release"), ("deflate", "allocate")):
        seen = set(frame.loc[frame["operation"] == operation, "stage"])
        assert seen == set(stages.STAGES) - {missing}
    assert set(frame.loc[frame["stage"] == "send", "part"]) == {"pack", "notify", "decode"}
    assert (frame.groupby(["run_id", "repeat"]).size() == 7).all()
    assert (frame["memory_bytes"] == 32 * MIB).all()
    assert (frame["balloon_bytes"] == 28 * MIB).all()


def test_every_stage_has_a_time_and_none_is_negative(run):
    assert (run.frame["time_ns"] >= 0).all()
    work = run.frame[run.frame["stage"].isin(["allocate", "release", "discard"])]
    assert (work["time_ns"] > 0).all()
    totals = run.frame.groupby(["run_id", "repeat"])["time_ns"].sum()
    assert (totals > 0).all()


def test_counts_are_the_formats_own(run):
    frame = run.frame.drop_duplicates("run_id").set_index(["protocol", "discard"])
    n = 28 * MIB // 4096
    for (protocol, discard), row in frame.iterrows():
        stream = bl.wire.encode(bl.patterns.idle("32MiB", "28MiB"), protocol)
        assert row["n_pages"] == n
        assert row["n_kicks"] == len(stream)
        assert row["wire_bytes"] == sum(len(buffer) for buffer in stream)
        assert row["n_records"] == len(bl.wire.decode(stream, protocol))
        if discard == "page":
            assert row["n_discards"] == row["n_translations"] == n
        else:
            assert row["n_discards"] < n / 200


def test_memory_really_goes_away(run):
    checks = run.checks
    assert (checks["lost_pages"] == 0).all()
    n, balloon = 32 * MIB // 4096, 28 * MIB // 4096
    touched = checks[checks["touched"]]
    assert (touched["resident_pages_before"] == n).all()
    assert (touched["resident_pages_after"] == n - balloon).all()
    inflated = touched["operation"] == "inflate"
    assert (touched.loc[inflated, "rss_fall_bytes"] > 0.9 * 28 * MIB).all()
    assert (touched.loc[~inflated, "rss_fall_bytes"].abs() < 0.1 * 28 * MIB).all()
    assert (checks.loc[~checks["touched"], "resident_pages_before"] == 0).all()


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
def test_every_format_is_measured_end_to_end(operation):
    cases = [{"protocol": name} for name in FAITHFUL]
    half = {"memory": "16MiB", "balloon": "8MiB", "pattern": "random"}
    run = bl.compare(cases, **half, operation=operation, repeats=1)
    assert (run.checks["balloon_pages"] == 2048).all()
    sent = run.frame.drop_duplicates("protocol").set_index("protocol")
    pages = bl.patterns.random("16MiB", "8MiB", rng=0)
    for name in FAITHFUL:
        stream = bl.wire.encode(pages, name)
        assert sent.loc[name, "wire_bytes"] == sum(map(len, stream))
        assert sent.loc[name, "n_kicks"] == len(stream)


@pytest.mark.parametrize("protocol", DIVERSE)
@pytest.mark.parametrize("wait", ["block", "busy"])
def test_scattered_pages_and_both_ways_of_waiting(protocol, wait):
    pages = np.random.default_rng(5).permutation(2048)[:900]
    run = bl.measure(memory="8MiB", pattern=pages, protocol=protocol, wait=wait, repeats=1)
    assert run.frame["pattern"].str.match("custom:[0-9a-f]{12}$").all()
    assert (run.frame["wait"] == wait).all()
    assert run.checks["resident_pages_after"].tolist() == [2048 - 900]
    random = bl.measure(
        memory="8MiB", balloon="4MiB", pattern="random", protocol=protocol, repeats=1
    )
    assert random.frame["n_pages"].unique().tolist() == [1024]


SPELLINGS = ["idle", "random", "huge", "aged", "every:8", "geometric:4"]


@pytest.mark.parametrize("order", bl.patterns.ORDERS)
@pytest.mark.parametrize("pattern", [*SPELLINGS, [5, 3, 4, 800]])
def test_every_repeat_inflates_the_patterns_pages_in_that_order(pattern, order):
    case = make_case(
        memory="16MiB", balloon="2MiB" if isinstance(pattern, str) else None,
        pattern=pattern, order=order,
    ).with_pages()  # fmt: skip
    pages = bl.patterns.make(pattern, "16MiB", "2MiB") if case.given is None else pattern
    expected = bl.patterns.ordered(pages, order)
    for _ in range(2):
        with machine(GuestRam(case.memory_pages), case.allocator(), "pfn") as both:
            done = both.driver.inflate(case.balloon_pages)
        np.testing.assert_array_equal(done.pages, expected)


def test_an_aged_guest_is_aged_once_and_keeps_its_other_free_memory(monkeypatch):
    guests = []
    monkeypatch.setattr(
        "balloonlab.measurement.case.age", lambda memory: guests.append(age(memory)) or guests[-1]
    )
    run = bl.measure(memory="16MiB", balloon="8MiB", pattern="aged", repeats=3)
    assert run.frame["repeat"].nunique() == 3
    assert len(guests) == 1
    case = make_case(memory="16MiB", balloon="8MiB", pattern="aged").with_pages()
    free = case.allocator().free_blocks()
    assert free.tolist() == guests[0].buddy.free_blocks().tolist()
    assert free @ (1 << np.arange(free.size)) > case.balloon_pages
    sorted_case = make_case(
        memory="16MiB", balloon="8MiB", pattern="aged", order="ascending"
    ).with_pages()
    assert sorted_case.allocator().free_blocks()[0] == case.balloon_pages


def test_pattern_and_order_are_in_the_frame():
    cases = [{"pattern": "every:8", "order": order} for order in bl.patterns.ORDERS]
    run = bl.compare(cases, memory="8MiB", balloon="512KiB", protocol="pfn", repeats=1)
    assert list(run.frame.columns).index("order") == list(run.frame.columns).index("pattern") + 1
    assert set(run.frame["pattern"]) == {"every:8"}
    assert run.frame["order"].unique().tolist() == list(bl.patterns.ORDERS)


@pytest.mark.parametrize("thp", [True, False])
def test_huge_pages_are_what_was_asked_for(thp):
    switch = bl.measurement.provenance.thp_state()
    if switch in ("never", "absent"):
        pytest.skip(f"transparent huge pages are {switch} here")
    run = bl.measure(memory="64MiB", thp=thp, repeats=1)
    assert (run.frame["thp"] == thp).all()
    assert (run.checks["huge_bytes_before"] > 0).all() == thp


def test_huge_pages_come_back_after_a_discard_page_by_page():
    switch = bl.measurement.provenance.thp_state()
    if switch in ("never", "absent"):
        pytest.skip(f"transparent huge pages are {switch} here")
    both = [{"protocol": "pfn"}, {"protocol": "bitmap-v4"}]
    run = bl.compare(both, memory="64MiB", thp=True, repeats=3)
    assert run.checks["huge_bytes_before"].min() > 32 * MIB


def test_memory_that_is_not_as_the_frame_would_claim_is_refused(monkeypatch):
    monkeypatch.setattr(GuestRam, "touch", lambda self, advance: None)
    with pytest.raises(RuntimeError, match=r"touched=True.*0 of 2048 pages are backed"):
        bl.measure(memory="8MiB", touched=True, repeats=1)


def running():
    return [thread.name for thread in threading.enumerate() if "balloon" in thread.name]


def test_what_ends_the_drivers_thread_is_what_the_user_sees(monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr("balloonlab.kernels.driver.inflate", fail)
    with pytest.raises(ZeroDivisionError, match="deep inside"):
        bl.measure(memory="8MiB", repeats=1)
    assert running() == []


def test_a_device_that_dies_is_reported_and_leaves_no_thread(monkeypatch):
    """The inflate queue's thread dies on its first kick; the deflate queue's is stopped."""
    serve = device.serve

    def fail(queue, memory, state, log):
        if state.verb.advice != mmap.MADV_DONTNEED:
            return serve(queue, memory, state, log)
        os.eventfd_read(int(queue.doorbell.kick))
        raise ZeroDivisionError("device")

    monkeypatch.setattr("balloonlab.kernels.device.serve", fail)
    with pytest.raises(ZeroDivisionError, match="device"):
        bl.measure(memory="8MiB", repeats=1)
    assert running() == []


@pytest.mark.parametrize("wait", ["block", "busy"])
def test_an_interrupt_leaves_no_thread_behind(monkeypatch, wait):
    """Ctrl-C while the device sits on a message: both ends leave, then the queue closes."""
    asleep = threading.Event()

    def sleepy(queue, memory, device, log):
        asleep.set()
        while queue.ring.control[0] == 0:
            time.sleep(0.01)

    def interrupted(self):
        asleep.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr("balloonlab.kernels.device.serve", sleepy)
    monkeypatch.setattr("balloonlab.queue.Worker.wait", interrupted)
    monkeypatch.setattr("balloonlab.queue.Worker.join", lambda self: self._done.wait(20))
    with pytest.raises(KeyboardInterrupt):
        bl.measure(memory="8MiB", wait=wait, repeats=1)
    assert running() == []


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"memory": "8MiB", "balloon": "8MiB"}, ValueError, "balloon must be smaller than memory"),
        ({"memory": 8 * MIB + 1}, ValueError, "memory must be a multiple of the 4 KiB page"),
        ({"memory": "8MiB", "balloon": 5000}, ValueError, "balloon must be a multiple"),
        ({"memory": "8MiB", "balloon": 0}, ValueError, "at least one page to be measured"),
        ({"protocol": "bitmap-v5"}, ValueError, "protocol must be one of pfn, bitmap-v4"),
        ({"pattern": "checkers"}, ValueError, "pattern must be one of idle, random"),
        ({"pattern": [1, 1], "memory": "1MiB"}, ValueError, "of 1 pages 1 come .*the first is 1;"),
        ({"pattern": [256], "memory": "1MiB"}, ValueError, r"\[0, 256\).*the first is 256"),
        ({"pattern": [1], "memory": "1MiB", "balloon": "8KiB"}, ValueError, "size of the pages"),
        ({"pattern": [0.5], "memory": "1MiB"}, TypeError, "pattern must be an array of integers"),
        ({"pattern": None, "memory": "1MiB"}, TypeError, "pattern must be an array of integers"),
        ({"pattern": "every:2", "memory": "8MiB"}, ValueError, "4 MiB .*a K of at most 1"),
        ({"pattern": "geometric:1", "memory": "8MiB"}, ValueError, "needs a MEAN of 6.98 or more"),
        ({"pattern": "aged", "memory": "8MiB", "balloon": "8188KiB"}, ValueError, "needs held="),
        (
            {"pattern": "huge", "memory": "9MiB"},
            ValueError,
            "whole huge pages .* got '8064KiB'; the next smaller that fits is 6 MiB",
        ),
        ({"pattern": "every:08"}, ValueError, "pattern must be one of .*every:08"),
        ({"order": "sideways"}, ValueError, "order must be one of as is, ascending"),
        ({"steps": 2000, "memory": "8MiB", "balloon": "4MiB"}, ValueError, "steps must be at most"),
        ({"operation": "explode"}, ValueError, "operation must be one of inflate, deflate"),
        ({"host": "xen"}, ValueError, "host must be one of lab, qemu"),
        ({"discard": "all"}, ValueError, "discard must be one of page, range"),
        ({"wait": "sleep"}, ValueError, "wait must be one of block, busy"),
        ({"repeats": 0}, ValueError, "repeats must be"),
        ({"repeats": 1.5}, ValueError, "repeats must be"),
        ({"touched": "yes"}, TypeError, "touched must be True or False"),
        ({"thp": 1}, TypeError, "thp must be True or False"),
        ({"memory": "1000TiB"}, MemoryError, "or less would fit"),
    ],
)
def test_measure_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        bl.measure(**arguments)


def test_compare_refuses():
    with pytest.raises(TypeError, match="unknown argument memmory"):
        bl.compare([{"memmory": "1GiB"}])
    with pytest.raises(ValueError, match="at least one case"):
        bl.compare([])
    for cases in (["pfn"], "pfn", [{}, 1]):
        with pytest.raises(TypeError, match="cases must be a list of dicts"):
            bl.compare(cases)


def test_a_platform_without_eventfd_or_madvise_can_do_all_but_measure(monkeypatch):
    monkeypatch.delattr(os, "eventfd")
    with pytest.raises(NotImplementedError, match=r"eventfd.*everything except measuring works"):
        bl.measure(memory="8MiB")
    monkeypatch.setattr("mmap.mmap", object)
    with pytest.raises(NotImplementedError, match=r"eventfd.*madvise"):
        bl.reproduce(memory="8MiB")
    assert len(bl.wire.encode(bl.patterns.idle("8MiB", "4MiB"), "pfn")) == 4


def test_cgroup_limits_count(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(resources, "CGROUP_OF_SELF", tmp_path / "self")
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=64 * GIB, total=64 * GIB)
    )
    (tmp_path / "self").write_text("5:cpu:/x\n")
    assert resources.available_bytes() == 64 * GIB
    (tmp_path / "self").write_text("0::/a/b\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (tmp_path / "a", str(4 * GIB))):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{2 * GIB}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert resources.available_bytes() == 3 * GIB
    (tmp_path / "self").write_text("4:memory:/c\n")
    old = tmp_path / "memory" / "c"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text(str(GIB))
    (old / "memory.usage_in_bytes").write_text("0")
    (old / "memory.stat").write_text("total_inactive_file 0\n")
    assert resources.available_bytes() == GIB
    with pytest.raises(MemoryError, match=r"1 GiB are available.*448MiB or less would fit"):
        bl.measure(memory="8GiB")
    assert resources.largest_guest(touched=True, available=GIB) == 448 * MIB


@pytest.mark.once
def test_ctrl_c_loses_no_finished_repeat(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "balloonlab", "reproduce", "--memory", "256MiB"]
    command += ["--repeats", "500", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checks, deadline = out / "checks.csv", time.monotonic() + 120
    while time.monotonic() < deadline:  # until two repeats are finished
        if checks.exists() and checks.read_bytes().count(b"\n") > 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted. Finished repeats are in" in errors
    assert "Traceback" not in errors
    frame = pd.read_csv(out / "timings.csv")
    assert frame.groupby(["run_id", "repeat"]).size().isin([2, 7]).all()
    kept = bl.reproduction.Reproduction.load(out)
    assert not kept.meta["finished"]
    assert bl.reproduction.findings(kept)
