"""How a host applies messages: sorted, vectored, by several threads, collected."""

import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import wire
from balloonlab.host import GuestRam, Policy, check_vectored, policy
from balloonlab.host.backing import DONTNEED
from balloonlab.host.crew import Crew
from balloonlab.host.device import make_state, no_balloon, no_guard
from balloonlab.kernels import clock, device
from balloonlab.kernels import crew as crew_kernels
from balloonlab.kernels import discard as kernels
from balloonlab.kernels.translate import Memory
from balloonlab.measurement.machine import machine
from balloonlab.pages import Buddy
from balloonlab.queue import QUEUE_BYTES, build_ring
from balloonlab.selftest.contents import POLICIES
from balloonlab.wire import Feature

from . import naive
from .conftest import INTERPRETED

PAGE, HUGE = 4096, 1 << 21


@pytest.fixture(scope="module", autouse=True)
def vectored_calls():
    try:
        check_vectored()
    except NotImplementedError as error:
        pytest.skip(str(error))


@st.composite
def extents(draw, most=80):
    """Extents that do not overlap, in any order, many of them neighbours."""
    bounds = sorted(draw(st.sets(st.integers(0, 2000), min_size=2, max_size=most)))
    rows = [(low * PAGE, (high - low) * PAGE) for low, high in pairwise(bounds)]
    kept = [row for row in rows if draw(st.integers(0, 3)) > 0]
    return draw(st.permutations(kept))


def rows_of(pairs):
    return np.array(pairs, np.int64).reshape(-1, 2)


@given(extents())
def test_sorting_merges_all_that_adjoin(pairs):
    rows = rows_of(pairs)
    n = kernels.sort_extents(rows, np.zeros_like(rows))
    assert rows[:n].tolist() == naive.sort_extents(pairs)


@given(extents(), st.integers(2, 5), st.booleans())
def test_shares_are_all_of_the_extents_and_cut_at_huge_pages_only(pairs, threads, long):
    pairs = [(offset * (512 if long else 1), n * (512 if long else 1)) for offset, n in pairs]
    state = Crew(Policy("range", threads=threads), *nowhere(), 100).state
    total = crew_kernels.split(rows_of(pairs), state)
    assert total == sum(n for _, n in pairs)
    bounds = state.bounds.tolist()
    assert bounds == sorted(bounds)
    shares = state.shares[bounds[0] : bounds[-1]].tolist()
    cuts = {sum(row) for row in shares} - {sum(row) for row in pairs}
    assert all(cut % HUGE == 0 for cut in cuts)
    joined = []
    for offset, n_bytes in shares:
        if joined and sum(joined[-1]) == offset and offset in cuts:
            joined[-1][1] += n_bytes
        else:
            joined.append([offset, n_bytes])
    assert joined == [list(row) for row in pairs]
    assert all(n > 0 for _, n in shares)
    sizes = [state.shares[a:b, 1].sum() for a, b in pairwise(bounds)]
    if long and total:
        assert max(sizes) <= total / threads + 2 * HUGE


def nowhere():
    return Memory(np.zeros(0, np.uint8), 0, np.zeros((0, 4), np.int64)), DONTNEED


@pytest.mark.skipif(not INTERPRETED, reason="a call is replaced, which compiled code does not see")
@given(extents(most=20), st.integers(1, 6), st.data())
def test_what_a_vectored_call_stops_at_has_failed_and_the_rest_goes_on(pairs, most, data):
    refused = data.draw(
        st.sets(st.sampled_from([row[0] for row in pairs]) if pairs else st.nothing())
    )

    def advise(pidfd, iovecs, n, advice):
        done = 0
        for address, n_bytes in iovecs[:n].tolist():
            if address in refused:
                return done or -1
            done += n_bytes
        return done

    vectors = kernels.Vectors(-1, rows_of([[0, 0]] * most), *[rows_of([])] * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "advise_vectors", advise)
        found = kernels.discard_vectored(nowhere()[0], rows_of(pairs), DONTNEED, vectors)
    assert found == naive.vectored(pairs, most, refused)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
def test_every_page_of_a_message_is_discarded_and_no_other(name, protocol, rng):
    ram = GuestRam(2000)
    pages = rng.permutation(2000)[:1300].astype(np.uint64)
    ram.touch()
    ballooned = np.zeros(2000, bool)
    ballooned[pages.astype(int)] = True
    with machine(ram, Buddy.holding(2000, pages), protocol, POLICIES[name], operations=9) as both:
        for target in (pages.size, 0, 700, 1300):
            both.driver.set_target(target)
            for device in both.devices.values():
                device.settle()
                assert (device.faults(), device.n_discard_errors) == ({}, 0)
            held = set(both.driver.pages.tolist())
            if target == pages.size:
                assert held == set(pages.tolist())
                assert not ram.resident()[ballooned].any()
        assert ram.count_lost(ballooned) == 0


def test_a_deflated_page_is_never_discarded_afterwards():
    """The host has answered an inflation that it still holds when the page is deflated."""
    ram, n = GuestRam(600), 300
    ram.touch()
    words = ram.memory.ram.view(np.uint64)
    for _ in range(3 if INTERPRETED else 30):
        buddy = Buddy.idle(600)
        with machine(ram, buddy, "pfn", Policy("sorted", collect=64), operations=9) as both:
            both.driver.set_target(n)
            pages = ram.page_index(both.driver.pages)
            both.driver.set_target(0)
            words[pages * 512] = pages + 1  # the guest's own again
            time.sleep(0.003)  # longer than a device holds anything
            assert (words[pages * 512] == pages + 1).all()
        assert (words[pages * 512] == pages + 1).all()


def test_a_driver_that_may_use_pages_before_it_tells_is_not_collected_from():
    ram, buddy = GuestRam(64), Buddy.idle(64)
    words = "collect must be 1 for a driver without MUST_TELL_HOST, got 2"
    with pytest.raises(ValueError, match=words):
        machine(ram, buddy, "pfn", Policy("range", collect=2), offered=Feature(0)).__enter__()


def test_targets_up_and_down_leave_what_is_outside_as_the_guest_wrote_it(rng):
    ram = GuestRam(4096)
    ram.touch()
    words = ram.memory.ram.view(np.uint64)
    with machine(ram, Buddy.idle(4096), "pfn", Policy("sorted", collect=3), operations=99) as both:
        for target in rng.integers(0, 4096, 5 if INTERPRETED else 40):
            both.driver.set_target(int(target))
            outside = np.setdiff1d(np.arange(4096), ram.page_index(both.driver.pages))
            words[outside * 512] = outside + 1
            time.sleep(0.002)  # longer than a device holds anything
            assert (words[outside * 512] == outside + 1).all()


def test_what_leaves_waits_for_a_message_that_is_under_way():
    """A guest that deflates pages of an inflation that it has not been answered for."""
    guard = no_guard()
    balloon = no_balloon(64 * PAGE)
    ram = GuestRam(64)
    inflating, deflating = (
        make_state(wire.get("pfn"), Policy("range"), name, balloon, guard=guard)
        for name in ("inflate", "deflate")
    )
    ring, log = build_ring(np.zeros(QUEUE_BYTES, np.uint8)), clock.Log.empty(99)
    device._hold(inflating)  # its pages are in the balloon, its discard is to come
    waiting = threading.Thread(target=device._await_flush, args=(deflating, ring, log.cell))
    waiting.start()
    waiting.join(0.02)
    assert waiting.is_alive()
    device.flush(inflating, ram.memory, 0, log)
    waiting.join(5)
    assert not waiting.is_alive()
    device.flush(deflating, ram.memory, 0, log)
    assert guard.tolist() == [0, 1]  # a deflation releases nothing


@pytest.mark.slow_interpreted  # between its messages the device runs out of patience
def test_what_is_collected_is_answered_before_it_is_discarded_and_gone_when_settled():
    ram = GuestRam(3000)
    ram.touch()
    with machine(ram, Buddy.idle(3000), "pfn", Policy("range", collect=64), operations=9) as both:
        device, driver = both.devices["inflate"], both.driver
        log = device.log
        driver.set_target(2560)
        device.settle()
        last = log.rows[: int(log.length[0])]
        assert last[-1, 0] == 5  # discard
        assert device.n_discards < 10  # calls, for ten messages
        assert not ram.resident()[ram.page_index(driver.pages)].any()
        stopping = driver.set_target(2816)
        assert stopping.n_kicks == 1
    assert not ram.resident()[ram.page_index(driver.pages)].any()  # stopping lets go, too


def test_threads_end_with_their_device_and_leave_no_descriptor():
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    ram = GuestRam(2000)
    with machine(ram, Buddy.idle(2000), "bitmap-v4", Policy("vector")) as both:
        both.driver.set_target(9)
    before = descriptors()
    for _ in range(3):
        with machine(ram, Buddy.idle(2000), "bitmap-v4", Policy("vector", threads=4)) as both:
            both.driver.set_target(1000)
            names = [thread.name for thread in threading.enumerate()]
            assert sum(name.startswith("balloon-discard") for name in names) == 6
    assert descriptors() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("balloon")]


def test_a_thread_that_dies_is_an_error_and_no_hang(monkeypatch):
    def dies(*arguments):
        raise OSError("no more")

    monkeypatch.setattr(crew_kernels, "work", dies)
    ram = GuestRam(2000)
    pages = np.arange(0, 2000, 2).astype(np.uint64)
    buddy, errors = Buddy.holding(2000, pages), []

    def inflates():
        with machine(ram, buddy, "pfn", Policy("page", threads=2)) as both:
            both.driver.set_target(1000)
            errors.append(both.devices["inflate"].n_discard_errors)

    with pytest.raises(OSError, match="no more"):
        inflates()
    assert errors[0] > 0


def test_a_kernel_that_refuses_is_found_out_before_the_work(monkeypatch):
    monkeypatch.setattr(policy, "advise_vectors", lambda *arguments: -1)
    check_vectored.cache_clear()
    try:
        words = r"process_madvise\(2\) for madvise\(MADV_DONTNEED\) .* refuses: use 'range'"
        with pytest.raises(NotImplementedError, match=words):
            bl.measure(memory="8MiB", discard="vector", repeats=1)
        assert len(bl.measure(memory="8MiB", discard="sorted", repeats=1).frame)
    finally:
        check_vectored.cache_clear()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vectors": 9}, "vectors must be left out with discard='range', got 9: only vector and"),
        ({"discard": "vector", "vectors": 1025}, "vectors must be a whole number from 1 to 1024"),
        ({"threads": 65}, "threads must be a whole number from 1 to 64, got 65"),
        ({"collect": 0}, "collect must be a whole number from 1 to 64, got 0"),
        ({"guest": "linux", "protocol": "hinting", "collect": 2}, "a block that was answered is"),
        ({"host": "qemu", "threads": 2}, "threads must be 1 with host='qemu', got 2: its own main"),
        ({"protocol": "madvise", "collect": 2}, "collect must be 1 with protocol='madvise'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        bl.measure(memory="512MiB", repeats=1, **options)


def test_vectors_are_a_message_of_pfn_and_the_most_that_a_call_takes_else():
    found = {
        (protocol, discard): bl.measure(
            memory="8MiB", protocol=protocol, discard=discard, repeats=1, touched=False
        ).frame["vectors"].iloc[0]
        for protocol in ("pfn", "bitmap-v4")
        for discard in ("sorted", "sorted-vector")
    }  # fmt: skip
    assert list(found.values()) == [0, 256, 0, 1024]


def test_policies_are_what_measure_takes():
    table = bl.host_policies()
    assert {"qemu", "crosvm", "firecracker", "cloud-hypervisor"} <= set(table.index)
    options = bl.host_policy("firecracker")
    run = bl.measure(memory="8MiB", protocol="pfn", repeats=1, **options)
    assert run.frame["discard"].unique().tolist() == ["sorted"]
    assert run.frame["collect"].unique().tolist() == [options["collect"]] == [1]
    with pytest.raises(ValueError, match=r"name must be one of qemu, .* got 'qemo'; did you mean"):
        bl.host_policy("qemo")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_floor_is_one_call_by_each_thread(threads):
    run = bl.measure(memory="64MiB", protocol="madvise", threads=threads, repeats=1)
    assert run.frame["n_discards"].unique().tolist() == [threads]


def test_a_forked_process_opens_a_descriptor_of_its_own():
    assert policy._pidfd(os.getpid()) == policy._pidfd(os.getpid())
    assert policy._pidfd(os.getpid()) != policy._pidfd(os.getppid())
