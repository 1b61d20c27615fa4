"""Measuring with the driver inside a virtual machine."""

import json
import os
import threading
import time

import numpy as np
import pandas as pd
import pytest

import balloonlab as bl
from balloonlab import linux
from balloonlab.guest import InVcpu
from balloonlab.host import GuestRam
from balloonlab.kernels import contents
from balloonlab.kernels.doorbell import Ports, Queue
from balloonlab.measurement import on_kvm, tables
from balloonlab.measurement.machine import machine
from balloonlab.pages import Buddy
from balloonlab.selftest.contents import POLICIES, combinations
from balloonlab.sizes import MIB
from balloonlab.vcpu import KvmError, Vcpu

from .kvm import MARKS, needs_kvm
from .strategies import DIVERSE

pytestmark = pytest.mark.once

CASES = [
    {"protocol": protocol, "touched": touched, "operation": operation}
    for protocol in DIVERSE
    for touched in (True, False)
    for operation in ("inflate", "deflate")
]
N_PAGES = 3000


@pytest.fixture(scope="module")
def run():
    return bl.compare(CASES, guest="kvm", memory="64MiB", repeats=2)


@needs_kvm
def test_the_frame_is_that_of_the_lab(run):
    frame = run.frame
    assert list(frame.columns) == tables.COLUMNS
    assert (frame["source"] == "kvm").all()
    assert (frame.groupby(["run_id", "repeat"]).size() == 7).all()
    assert not frame.isna().any().any()
    assert (frame["time_ns"] >= 0).all()
    lab = bl.compare(CASES, memory="64MiB", repeats=2).frame
    counts = ["n_kicks", "wire_bytes", "n_records", "n_translations", "n_discards", "n_pages"]
    assert (frame[counts].to_numpy() == lab[counts].to_numpy()).all()
    assert run.meta["kvm"]


@needs_kvm
def test_memory_really_goes_away(run):
    checks, n, balloon = run.checks, 64 * MIB // 4096, 56 * MIB // 4096
    assert (checks["lost_pages"] == 0).all(), "as seen from inside"
    touched = checks[checks["touched"]]
    assert (touched["resident_pages_before"] == n).all()
    assert (touched["resident_pages_after"] == n - balloon).all()
    inflated = touched["operation"] == "inflate"
    assert (touched.loc[inflated, "rss_fall_bytes"] > 0.9 * 56 * MIB).all()
    assert (checks.loc[~checks["touched"], "resident_pages_before"] == 0).all()


@needs_kvm
def test_every_exit_is_accounted_for(run):
    checks = run.checks.merge(run.frame.drop_duplicates(["run_id", "repeat"])[
        ["run_id", "repeat", "n_kicks"]])  # fmt: skip
    assert list(run.checks.columns) == tables.CHECK_COLUMNS + tables.OWN_CHECKS["kvm"]
    assert not checks.isna().any().any()
    assert (checks["n_exits"] == checks["n_waits"] + 1).all()
    assert (checks["n_waits"] <= checks["n_kicks"]).all()
    for name in ("exit", "awake", "answer", "mapped_discard", "unmapped_discard"):
        quartiles = checks[[f"{name}_q{i}_ns" for i in (1, 2, 3)]]
        assert (quartiles > 0).all().all()
        assert quartiles.apply(lambda row: row.is_monotonic_increasing, axis=1).all()
    assert (checks["clock_error_ns"] > 0).all()


@needs_kvm
@pytest.mark.parametrize("protocol", DIVERSE)
@pytest.mark.parametrize("wait", ["block", "busy"])
def test_scattered_pages_steps_and_both_ways_of_waiting(protocol, wait):
    pages = np.random.default_rng(5).permutation(2048)[:900]
    run = bl.measure(
        guest="kvm", memory="8MiB", pattern=pages, protocol=protocol, wait=wait, repeats=1, steps=3
    )
    assert run.checks["resident_pages_after"].tolist() == [2048 - 900]
    (exits,), (waits,) = run.checks["n_exits"], run.checks["n_waits"]
    assert exits == waits + 3
    assert waits <= run.frame["n_kicks"][0]
    assert waits == 0 or wait == "block"


@needs_kvm
@pytest.mark.parametrize(
    "options",
    [
        {"protocol": "madvise"},
        {"protocol": "bitmap-v4-posted", "steps": 1},
        {"protocol": "bitmap-v4", "bitmaps": 0},
        {"protocol": "pfn", "pattern": "aged", "balloon": "8MiB"},
    ],
)
def test_what_else_the_lab_measures(options, tmp_path):
    both = [{"guest": guest} for guest in ("thread", "kvm")]
    run = bl.compare(both, memory="16MiB", repeats=1, out=tmp_path / "run", **options)
    assert sorted(run.frame["source"].unique()) == ["kvm", "lab"]
    again = bl.load(tmp_path / "run")
    assert again.frame.equals(run.frame)
    assert set(tables.OWN_CHECKS["kvm"]) <= set(again.checks.columns)


@needs_kvm
def test_huge_pages_are_what_was_asked_for():
    if bl.measurement.provenance.thp_state() in ("never", "absent"):
        pytest.skip("no transparent huge pages here")
    run = bl.measure(guest="kvm", memory="64MiB", thp=True, repeats=2)
    assert run.checks["huge_bytes_before"].min() > 32 * MIB


@needs_kvm
@pytest.mark.parametrize(
    ("protocol", "discard"), [way for way in combinations() if way[0] in DIVERSE]
)
def test_every_byte_is_as_it_must_be_from_inside(protocol, discard, rng):
    """The guest fills its RAM, half of it is ballooned and back, the guest compares."""
    ram, pages = GuestRam(N_PAGES), rng.permutation(N_PAGES)[: N_PAGES // 2]
    words = ram.memory.ram.view(np.uint64)
    bits = np.zeros(-(-N_PAGES // 64), np.uint64)
    for page in pages.tolist():
        bits[page // 64] |= np.uint64(1 << page % 64)
    with Vcpu() as vcpu:
        vcpu.call(contents.fill, words, 0, N_PAGES)
        buddy = Buddy.holding(N_PAGES, pages)
        policy, runner = POLICIES[discard], InVcpu(vcpu)
        with machine(ram, buddy, protocol, policy, operations=2, vcpu=runner) as both:
            for target in (pages.size, 0):
                both.driver.set_target(target)
                both.devices["inflate"].settle()
                found = np.zeros(4, np.int64)
                vcpu.call(contents.compare, words, 0, N_PAGES, bits, found)
                assert found.tolist() == [N_PAGES - pages.size, 0, pages.size, 0]
            assert [device.faults() for device in both.devices.values()] == [{}, {}]


@pytest.mark.parametrize("guest", ["thread", pytest.param("kvm", marks=MARKS)])
@pytest.mark.parametrize("thp", [False, True])
def test_giving_back_brings_every_page_again(guest, thp):
    if thp and bl.measurement.provenance.thp_state() in ("never", "absent"):
        pytest.skip("no transparent huge pages here")
    frame = bl.give_back("64MiB", [guest], thp=thp, repeats=2)
    assert frame["repeat"].tolist() == [0, 1]
    assert (frame["source"] == ("kvm" if guest == "kvm" else "lab")).all()
    assert (frame["n_units"] * frame["unit_bytes"] == 56 * MIB).all()
    assert (frame["unit_bytes"] == (2 * MIB if thp else 4096)).all()
    assert (frame["time_ns"] > 0).all()


def test_giving_back_notices_pages_that_do_not_come(monkeypatch):
    monkeypatch.setattr(contents, "touch_at", lambda ram, offsets, clock: 1)
    with pytest.raises(RuntimeError, match="must bring as much memory, it brought 0 bytes"):
        bl.give_back("8MiB", ["thread"], repeats=1)


def test_giving_back_names_guests_that_there_are():
    with pytest.raises(ValueError, match="guests must be one of thread, kvm, linux, got 'qemu'"):
        bl.give_back("8MiB", ["thread", "qemu"])


def test_giving_back_is_stored(tmp_path):
    frame = bl.give_back("8MiB", "thread", repeats=2, out=tmp_path)
    stored = pd.read_csv(tmp_path / "give-back.csv")
    pd.testing.assert_frame_equal(stored, frame)
    assert json.loads((tmp_path / "meta.json").read_text())["arguments"]["guests"] == ["thread"]


@pytest.mark.skipif(bool(linux.missing()), reason="; ".join(linux.missing()))
def test_linux_takes_its_memory_back():
    (row,) = bl.give_back("512MiB", "linux", repeats=1).itertuples()
    assert row.source == "linux"
    assert 256 * MIB <= row.n_units * row.unit_bytes <= 512 * MIB


def test_linux_has_small_pages():
    with pytest.raises(ValueError, match="thp"):
        bl.give_back("512MiB", "linux", thp=True, repeats=1)


def test_words_are_written_at_the_offsets_only():
    ram, offsets = np.zeros(5 * 4096, np.uint8), np.array([0, 8192, 12288])
    assert contents.touch_at(ram, offsets, np.zeros(2, np.int64)) >= 0
    words = ram.view(np.uint64)
    assert np.flatnonzero(words).tolist() == [0, 1024, 1536]
    expected = [int(contents.SIGNATURE) ^ offset for offset in offsets.tolist()]
    assert words[offsets // 8].tolist() == expected


@needs_kvm
def test_a_driver_that_strays_is_an_error_and_leaves_no_thread(monkeypatch):
    nowhere = Ports(0x80, 0x80, np.zeros(2, np.int64))
    monkeypatch.setattr(InVcpu, "queue", lambda self, ends: Queue(ends.ring, nowhere))
    with pytest.raises(KvmError, match=r"inflate strayed inside .* port 0x80\) at rip 0x"):
        bl.measure(guest="kvm", memory="8MiB", repeats=1)
    monkeypatch.undo()
    assert len(bl.measure(guest="kvm", memory="8MiB", repeats=1).frame)


@needs_kvm
def test_kicks_that_kvm_does_not_signal_are_noticed(monkeypatch):
    monkeypatch.setattr(os, "eventfd_read", lambda fd: 999)
    with Vcpu() as vcpu, pytest.raises(RuntimeError, match=r"must signal 1000 kicks, .* 999"):
        on_kvm.time_kicks(vcpu)


@needs_kvm
def test_exits_that_nobody_asked_for_are_noticed(monkeypatch):
    left = iter(range(0, 10**6, 7))
    monkeypatch.setattr(Vcpu, "exits", lambda self: {"port I/O": next(left)})
    with pytest.raises(RuntimeError, match=r"waited [01] times and returned, but .* left 7 times"):
        bl.measure(guest="kvm", memory="8MiB", repeats=1)


@needs_kvm
def test_an_interrupt_leaves_no_thread_behind(monkeypatch):
    """Ctrl-C while the driver waits outside the machine for a device that sleeps."""
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
        bl.measure(guest="kvm", memory="8MiB", repeats=1)
    assert not [thread for thread in threading.enumerate() if "balloon" in thread.name]


def test_without_kvm_only_that_guest_is_refused(monkeypatch):
    def refuse():
        raise KvmError("/dev/kvm is not permitted")

    monkeypatch.setattr("balloonlab.vcpu.kvm.open_device", refuse)
    with pytest.raises(KvmError, match="not permitted"):
        bl.measure(guest="kvm", memory="8MiB", repeats=1)
    assert len(bl.measure(memory="8MiB", repeats=1).frame)
    with pytest.raises(KvmError, match="not permitted"):
        bl.timeline(guest="kvm", memory="8MiB")
    assert len(bl.timeline(memory="8MiB"))
