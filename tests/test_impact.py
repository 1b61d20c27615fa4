"""Another thread of the guest, beside an inflation."""

import json
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


def test_an_inflation_that_dies_leaves_no_thread(monkeypatch):
    def dies(*arguments):
        raise ZeroDivisionError("driver")

    monkeypatch.setattr("balloonlab.guest.BalloonDriver.set_target", dies)
    with pytest.raises(ZeroDivisionError):
        bl.impact(["page"], "8MiB", "thread", repeats=1, progress=False)
    assert running() == []


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
