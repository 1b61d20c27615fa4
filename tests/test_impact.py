"""Another thread of the guest, beside an inflation."""

import json
import pkgutil
import threading

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab.freeing import WAYS, beside
from balloonlab.freeing.beside import COLUMNS, summary
from balloonlab.freeing.bystander import Bystander, middle, quantiles
from balloonlab.host import GuestRam, check_vectored
from balloonlab.kernels import bystander as kernels
from balloonlab.sizes import PAGE_BYTES
from balloonlab.vcpu import Vcpu

from . import naive
from .kvm import MARKS

GUESTS = ["thread", pytest.param("kvm", marks=MARKS)]


def ways():
    try:
        check_vectored()
    except NotImplementedError:
        return [name for name, way in WAYS.items() if "vector" not in way.get("discard", "")]
    return list(WAYS)


def running():
    return [one.name for one in threading.enumerate() if one.name.startswith("balloon")]


@given(st.integers(0, 2**40))
def test_a_bin_is_known_to_six_percent(ns):
    number = kernels.bin_of(ns)
    assert number == naive.time_bin(ns) < kernels.N_BINS
    assert abs(middle(int(number)) - ns) <= ns / 16


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=300))
def test_quantiles_of_bins_are_those_of_the_times(times):
    counts = np.zeros(kernels.N_BINS, np.int64)
    for ns in times:
        counts[naive.time_bin(ns)] += 1
    found = quantiles(counts)
    for name, share in (("p50_ns", 0.5), ("p99_ns", 0.99), ("p999_ns", 0.999)):
        exact = sorted(times)[int(np.ceil(share * len(times))) - 1]
        assert abs(found[name] - exact) <= exact / 16
    assert quantiles(counts * 0) == dict.fromkeys(found, 0)


@given(
    st.integers(1, 2**64 - 1),
    st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
    st.integers(1, 3),
)
def test_steps_are_those_of_the_plain_twin(state, pages, n_steps):
    words, states = np.zeros(8 * 512, np.uint64), np.array([state], np.uint64)
    expected = words.tolist()
    for _ in range(n_steps):
        kernels.step(words, np.array(pages) * PAGE_BYTES, states)
        expected, state = naive.bystander_step(expected, pages, state)
    assert words.tolist() == expected
    assert states.tolist() == [state]


@pytest.mark.once
@pytest.mark.parametrize("guest", GUESTS)
def test_both_phases_of_every_way_are_counted(guest, tmp_path):
    frame = bl.impact(ways(), "64MiB", guest, repeats=1, out=tmp_path, progress=False)
    assert list(frame.columns) == COLUMNS
    assert set(frame["way"]) == set(ways())
    assert (frame.groupby("way")["phase"].agg(list).map(sorted)).tolist() == [
        ["alone", "inflating"]
    ] * len(ways())
    # An inflation of milliseconds may end before the thread, without a processor, does a step.
    assert (frame.loc[frame["phase"] == "alone", "n_steps"] > 0).all()
    assert (frame["p50_ns"] <= frame["p99_ns"]).all()
    assert (frame["p99_ns"] <= frame["p999_ns"]).all()
    assert (frame["max_ns"] <= frame["time_ns"]).all()
    table = summary(frame)
    assert table["way"].tolist() == ways()
    assert (table["throughput"] >= 0).all()
    assert json.loads((tmp_path / "meta.json").read_text())["command"] == "impact"
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "impact.csv"), frame.reset_index(drop=True)
    )
    assert running() == []


def test_a_thread_that_did_no_step_has_no_throughput():
    frame = bl.impact(["page", "range"], "8MiB", "thread", repeats=2, progress=False)
    times = ["n_steps", "time_ns", "p50_ns", "p99_ns", "p999_ns", "max_ns"]
    beside_it = frame["phase"] == "inflating"
    frame.loc[beside_it, times] = 1000
    frame.loc[beside_it & (frame["way"] == "range"), times] = 0
    page, ranges = summary(frame).to_dict("records")
    assert page["throughput_least"] > 0
    ends = ("throughput", "throughput_least", "throughput_greatest")
    assert [ranges[end] for end in ends] == [0, 0, 0]


@pytest.mark.once
def test_the_picture_has_a_line_per_way_and_the_thread_alone():
    frame = bl.impact(["page", "bitmap-v4"], "16MiB", "thread", repeats=1, progress=False)
    ax = bl.figures.impact(frame)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["alone", "page", "bitmap-v4"]
    plt.close(ax.figure)


def test_memory_that_does_not_hold_what_was_written_is_noticed():
    ram = GuestRam(64)
    ram.touch()
    with Bystander(ram, np.arange(10) * PAGE_BYTES, None) as bystander:
        pass
    ram.memory.ram[3 * PAGE_BYTES + 8 : 4 * PAGE_BYTES] = 0
    with pytest.raises(RuntimeError, match="memory outside the balloon lost its contents"):
        bystander.phases()


def test_its_steps_write_its_own_pages_and_never_their_first_word():
    ram = GuestRam(64)
    ram.touch()
    pages = np.arange(1, 64, 7)
    with Bystander(ram, pages * PAGE_BYTES, None) as bystander, bystander.counting():
        pass
    words = ram.memory.ram.view(np.uint64).reshape(-1, 512)[:64]
    assert ram.count_lost(np.zeros(64, bool)) == 0
    assert np.flatnonzero(words[:, 1:].any(axis=1)).tolist() == pages.tolist()
    assert bystander.phases()[0]["n_steps"] > 0


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(
    "where", ["queue.Worker.wait_for", "guest.BalloonDriver.set_target", "queue.Worker.wait"]
)
def test_ctrl_c_at_any_time_leaves_no_thread(monkeypatch, guest, where):
    """While the thread works alone, before the driver runs, and while it does."""
    name = f"balloonlab.{where}"
    original, was_running = pkgutil.resolve_name(name), []

    def interrupted(*arguments):
        was_running.extend(running())
        monkeypatch.setattr(name, original)
        raise KeyboardInterrupt

    monkeypatch.setattr(name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        bl.impact(["page"], "8MiB", guest, repeats=1, progress=False)
    assert "balloon-bystander" in was_running
    assert running() == []


@pytest.mark.parametrize("guest", GUESTS)
def test_only_what_the_driver_takes_counts_as_beside_it(monkeypatch, guest):
    """What is made ready before, and Python's part after, is no inflation."""
    phases, entered = [], Bystander.counting
    set_target = bl.guest.BalloonDriver.set_target

    def around(driver, n_pages):
        phases.append(current())
        done = set_target(driver, n_pages)
        phases.append(current())
        return done

    def current():
        return int(one[-1]._control[0])

    one = []

    def counting(bystander):
        phases.append("entered")
        return entered(bystander)

    begin = Bystander.__enter__
    monkeypatch.setattr(Bystander, "__enter__", lambda self: one.append(self) or begin(self))
    monkeypatch.setattr(Bystander, "counting", counting)
    monkeypatch.setattr(bl.guest.BalloonDriver, "set_target", around)
    bl.impact(["page"], "8MiB", guest, repeats=1, progress=False)
    assert phases == [kernels.BETWEEN, "entered", kernels.BETWEEN] * 2


@pytest.mark.parametrize("guest", [pytest.param("kvm", marks=MARKS)])
def test_in_kvm_both_run_in_one_virtual_machine(monkeypatch, guest):
    machines = []
    call = Vcpu.call_within

    def noted(vcpu, beside, function, *arguments):
        machines.append((function.__name__, vcpu._processor.machine))
        return call(vcpu, beside, function, *arguments)

    monkeypatch.setattr(Vcpu, "call_within", noted)
    bl.impact(["page"], "8MiB", guest, repeats=1, progress=False)
    of = {name: [one for n, one in machines if n == name] for name in ("work", "inflate")}
    assert len(of["work"]) == len(of["inflate"]) == 2  # with the warm-up
    assert of["work"] == of["inflate"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ways": "pages"}, "ways must be one of page, range, .* did you mean 'page'"),
        ({"guests": "linux"}, "guests must be one of thread, kvm, got 'linux'"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1"),
    ],
)
def test_arguments_are_checked_before_the_work(arguments, words):
    with pytest.raises(ValueError, match=words):
        bl.impact(**arguments)


def test_pages_outside_are_those_that_the_balloon_does_not_take():
    case = beside.make_case(memory="16MiB", protocol="pfn").with_pages()
    ram = GuestRam(case.memory_pages)
    outside = beside._outside(case, ram) // PAGE_BYTES
    taken = ram.page_index(bl.patterns.idle("16MiB", "14MiB"))
    assert outside.size == 512
    assert not set(outside.tolist()) & set(taken.tolist())
