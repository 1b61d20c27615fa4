"""A Linux as a process: booted, ended whatever happens, measured with its own driver, captured."""

import errno
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import capture
from balloonlab.host import VECTORED, Policy, check_vectored
from balloonlab.kernels import clock
from balloonlab.linux import GuestError, LinuxGuest, Uml, check_room, find, missing, supervisor
from balloonlab.measurement import reading, setups, stages_of_linux, tables
from balloonlab.measurement.on_linux import check_memory
from balloonlab.measurement.stages_of_linux import Slope, stage_times
from balloonlab.pages import check_in_ram
from balloonlab.sizes import MIB, PAGE_BYTES
from balloonlab.wire import Feature

pytestmark = pytest.mark.once

LACKS = missing()
needs_linux = pytest.mark.skipif(bool(LACKS), reason=f"a Linux guest needs {'; '.join(LACKS)}")

PAGES = 512 * MIB // PAGE_BYTES
BALLOON = 256 * MIB


def measure(**options):
    usual = {"memory": "512MiB", "balloon": "256MiB", "repeats": 1, "progress": False}
    return bl.measure(guest="linux", **usual | options)


def left_of(folder):
    """Return what is left of a guest: processes that name its folder, and the folder."""
    processes = psutil.process_iter(["cmdline"])
    named = [p.pid for p in processes if folder in " ".join(p.info["cmdline"] or [])]
    return named + [folder] * os.path.exists(folder)


def wait_until_gone(folder):
    """Wait until nothing is left of a guest; return what is after half a minute."""
    for _ in range(600):
        if not left_of(folder):
            return []
        time.sleep(0.05)
    return left_of(folder)


def needs_vectored_holes():
    try:
        check_vectored("remove")
    except NotImplementedError as error:
        pytest.skip(str(error))


@needs_linux
@pytest.mark.parametrize(
    ("protocol", "operation", "touched", "discard", "more"),
    [
        ("pfn", "inflate", True, "page", {}),
        ("pfn", "inflate", False, "range", {}),
        ("pfn", "deflate", True, "page", {}),
        ("pfn", "inflate", True, "sorted-vector", {"threads": 2, "collect": 8}),
        ("pfn", "deflate", True, "sorted", {"threads": 2, "collect": 8}),
        ("hinting", "inflate", True, "range", {}),
        ("hinting", "inflate", True, "vector", {"threads": 2}),
    ],
)
def test_linuxs_own_driver_gives_the_labs_frame(protocol, operation, touched, discard, more):
    if discard in VECTORED:
        needs_vectored_holes()
    run = measure(protocol=protocol, operation=operation, touched=touched, discard=discard, **more)
    frame, check = run.frame, run.checks.iloc[0]
    assert list(frame.columns) == tables.COLUMNS
    assert not frame.isna().any().any()
    assert set(frame["source"]) == {"linux"}
    expected, _ = setups.parts_of("linux", protocol, operation)
    assert set(frame[["stage", "part"]].itertuples(index=False, name=None)) == expected
    assert frame["time_ns"].sum() == check["wall_ns"]
    row = frame.iloc[0]
    pages = check["balloon_pages"]
    assert row["n_pages"] == pages
    assert row["balloon_bytes"] == pages * PAGE_BYTES
    if protocol == "pfn":
        assert (pages, row["n_kicks"]) == (65536, 256)
        assert (row["wire_bytes"], row["n_records"]) == (4 * 65536, 65536)
        sign = {"inflate": 1, "deflate": -1}[operation]
        assert check["guest_fall_bytes"] == sign * BALLOON
        assert (check.filter(like="step_") > 0).all()
    else:
        assert 0.9 * 65536 <= pages <= 65536 / 0.9
        assert row["wire_bytes"] == 16 * row["n_records"]
        assert check["guest_fall_bytes"] >= pages * PAGE_BYTES
    gone = touched and operation == "inflate"
    assert check["rss_fall_bytes"] >= gone * pages * PAGE_BYTES
    if touched:
        assert check["resident_pages_before"] > 0.9 * PAGES
    assert check["kept_pages"] > 1000
    assert check["lost_pages"] == 0
    assert row["n_discards"] == pages if discard == "page" else row["n_discards"] < pages
    assert run.meta["linux"][0].isdecimal()


@needs_linux
def test_reports_of_free_pages_come_by_themselves_and_their_pauses_are_no_work():
    run = measure(protocol="reporting", memory="256MiB", balloon="128MiB")
    by_stage = run.frame.groupby("stage")["time_ns"].sum()
    assert by_stage["remainder"] > 1e9  # the kernel looks every two seconds
    assert by_stage["discard"] < 1e9
    assert run.frame["n_records"].iloc[0] <= 32 * run.frame["n_kicks"].iloc[0]


@needs_linux
def test_a_run_with_linux_is_stored_read_and_pooled(tmp_path):
    stored = measure(steps=3, touched=False, out=tmp_path)
    loaded = bl.load(tmp_path)
    assert loaded.frame.equals(stored.frame)
    assert set(tables.OWN_CHECKS["linux"]) <= set(loaded.checks)
    assert (tmp_path / reading.CHECKS).read_text().count("\n") == 2


@needs_linux
def test_targets_go_up_and_down_in_one_guest_and_the_driver_is_as_its_kernel_says():
    with LinuxGuest(
        find(), 256 * MIB, policy=Policy("range"), log_rows=9999, room=99999, extra=Feature(0)
    ) as guest:
        with pytest.raises(GuestError, match="before load_driver"):
            guest.ram  # noqa: B018
        guest.load_driver()
        total = guest.wire.meminfo("MemTotal")
        for target in (256, 1, 20_000, 257, 0):
            begin_ns, end_ns = guest.set_balloon(target)
            assert begin_ns < end_ns
            assert guest.wire.meminfo("MemTotal") == total - target * PAGE_BYTES
        held = [guest.queues[name].n_sent for name in ("inflate", "deflate")]
        assert held[0] == held[1] == 256 + 19_999
        with pytest.raises(TimeoutError, match="did nothing for 1 s"):
            guest.set_balloon(60_000, stalled_s=1)
        assert 20_000 < guest.queues["inflate"].n_sent - guest.queues["deflate"].n_sent < 60_000


@needs_linux
@pytest.mark.parametrize("moment", ["booting", "up"])
def test_a_killed_balloonlab_leaves_nothing_of_its_guest(moment):
    program = (
        "from balloonlab.linux import Uml, find\n"
        "guest = Uml(find(), 256 << 20, balloon=False)\n"
        "print(guest.folder, flush=True)\n"
        "guest.boot()\n"
        "print('up', flush=True)\n"
        "import time; time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        folder = process.stdout.readline().strip()
        if moment == "up":
            assert process.stdout.readline() == "up\n"
        else:
            while len(left_of(folder)) < 3:  # the supervisor, its Linux, the folder
                time.sleep(0.01)
        process.kill()
    assert wait_until_gone(folder) == []


def folder_of(process):
    """Wait for the supervisor of a process's guest; return the guest's folder."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):  # a compiler's, say
                command = child.cmdline()
                if supervisor.__file__ in command:
                    return command[command.index(supervisor.__file__) + 2]
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@needs_linux
def test_ctrl_c_ends_a_measurement_and_its_guest(tmp_path):
    program = "import balloonlab as bl; bl.measure(guest='linux', memory='512MiB', repeats=99)"
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            folder = folder_of(process)
            time.sleep(0.5)  # somewhere in the boot, or right after it
            process.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert wait_until_gone(folder) == []


@needs_linux
def test_a_guest_that_panics_is_quoted_and_gone():
    with Uml(find(), 256 * MIB, balloon=False) as guest:
        wire = guest.boot()
        with pytest.raises(GuestError, match="answered 'error no such command'"):
            wire.run("dance")
        with pytest.raises(GuestError, match=r"Linux ended(?s:.*)sysrq triggered crash"):
            wire.run("write /proc/sysrq-trigger c")
        folder = str(guest.folder)
    assert wait_until_gone(folder) == []


@needs_linux
def test_a_guest_that_hangs_ends_with_a_reason():
    with Uml(find(), 256 * MIB, balloon=False) as guest:
        wire = guest.boot()
        for pid in left_of(str(guest.folder))[:-1]:
            with suppress(psutil.NoSuchProcess):
                if "linux.uml" in "".join(psutil.Process(pid).cmdline()[:1]):
                    os.kill(pid, signal.SIGSTOP)
        wire.patience_s = 3
        with pytest.raises(GuestError, match=r"silent for 3 s\n(?s:.*)Run /init"):
            wire.run("cat /proc/version")
    assert wait_until_gone(str(guest.folder)) == []


TRACES = """
import ctypes, os, signal
{hide}
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(child, 0)
for kind in (2, 0x202):
    room = ctypes.create_string_buffer(1 << 16)
    iov = (ctypes.c_size_t * 2)(ctypes.addressof(room), len(room))
    ended = libc.ptrace(0x4204, child, ctypes.c_void_p(kind), iov)
    print(ended, ctypes.get_errno() * (ended != 0))
os.kill(child, signal.SIGKILL)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is of x86-64's calls")
def test_a_traced_process_shows_its_registers_but_no_xstate():
    hide = "from balloonlab.linux import supervisor; supervisor.hide_xstate(ctypes.CDLL(None))"
    plain, hidden = (
        subprocess.run(
            [sys.executable, "-c", TRACES.format(hide=line)],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for line in ("", hide)
    )  # fmt: skip
    assert plain == ["0 0", "0 0"]
    assert hidden == ["0 0", f"-1 {errno.ENODEV}"]


def test_a_processor_with_tiles_is_known_by_its_flags(tmp_path):
    for flags, tiles in (("fpu amx_bf16 amx_tile", True), ("fpu avx512f amx_tiles", False)):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
        assert supervisor.has_tiles(str(tmp_path / "cpuinfo")) is tiles


@needs_linux
def test_a_guest_out_of_memory_ends_the_case_with_its_console():
    with Uml(find(), 256 * MIB, balloon=False) as guest:
        wire = guest.boot()
        with pytest.raises(GuestError, match=r"(?s)ended|error.*"):
            wire.run("anon 600000000")


@needs_linux
def test_a_small_native_capture(tmp_path):
    wanted = capture.plan(["idle", "tmpfs50"], ["256MiB"], [0.25], [1, 2], "linux")
    assert wanted[1].name == "linux-idle-256MiB-25-s2"
    captured = dict(capture.record_all(wanted, tmp_path, progress=False))
    assert bl.traces.names(tmp_path)[0].startswith("linux-idle-256MiB-25-s1")
    for one, record in captured.items():
        inflate, deflate = record.pages.values()
        check_in_ram(inflate, 256 * 256)
        assert sorted(inflate) == sorted(deflate)
        name = f"{one.name}-inflate"
        assert (bl.traces.load(name, tmp_path) == inflate).all()
    aged = [c.pages[f"{w.name}-inflate"] for w, c in captured.items() if w.state == "tmpfs50"]
    assert not np.array_equal(*(np.sort(pages) for pages in aged))  # another seed, other pages
    row = bl.traces.index(tmp_path).iloc[0]
    assert row["accelerator"].startswith("User-Mode Linux")
    with pytest.raises(ValueError, match=r"state must be one of idle, tmpfs30.*got 'anon'"):
        capture.record("anon", guest="linux")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"memory": "128MiB"},
            "memory must be whole MiB from 256 MiB to 16 GiB with guest='linux'",
        ),
        ({"memory": 300 * MIB + 4096}, "whole MiB"),
        ({"pattern": "random"}, "pattern must be one of idle, tmpfs30.*with guest='linux'"),
        ({"protocol": "bitmap-v4"}, "protocol must be one of pfn, hinting, reporting"),
        ({"thp": True}, "thp must be False with guest='linux'"),
        ({"wait": "busy"}, "wait must be 'block' with guest='linux'"),
        ({"backing": "anonymous"}, "backing must be one of memfd with guest='linux'"),
        ({"host": "qemu"}, "guest='linux' cannot be with host='qemu'"),
        ({"protocol": "hinting", "operation": "deflate"}, "operation must be 'inflate'"),
        ({"balloon": "4MiB"}, "balloon must hold .* pages for its steps"),
        ({"balloon": "500MiB"}, "balloon must be at most .* available in state idle"),
    ],
)
def test_what_linux_cannot_do_is_refused(options, message):
    if LACKS and "balloon" in options:
        pytest.skip(f"a Linux guest needs {'; '.join(LACKS)}")
    with pytest.raises(ValueError, match=message):
        measure(**options)


def test_what_is_missing_is_said_with_what_to_do(tmp_path):
    with pytest.raises(GuestError, match=r"apt-get install user-mode-linux.*--linux PATH"):
        find("no-such-linux")
    with pytest.raises(GuestError, match="must name a release"):
        find("/bin/cat")
    fake = tmp_path / "linux"
    fake.write_text("#!/bin/sh\necho 9.9.9\n")
    fake.chmod(0o755)
    with pytest.raises(GuestError, match=r"modules of .* are not in .*9\.9\.9.*--modules PATH"):
        find(fake)
    assert find(fake, tmp_path).release == "9.9.9"
    with pytest.raises(GuestError, match="apt-get install user-mode-linux"):
        measure(linux="no-such-linux")


def test_a_guest_that_does_not_fit_is_refused():
    with pytest.raises(MemoryError, match="enlarge it"):
        check_room(1 << 50)
    with pytest.raises(ValueError, match="from 256 MiB"):
        check_memory(1)


def test_the_supervisor_ends_even_those_who_left_the_group(tmp_path):
    folder, source, lifeline = tmp_path / "guest", *os.pipe()
    folder.mkdir()
    script = "setsid sleep 1234567 & setsid sh -c 'sleep 1234567 & wait' & wait"
    with subprocess.Popen(
        [sys.executable, supervisor.__file__, str(source), str(folder), "/bin/sh", "-c", script],
        pass_fds=[source],
    ) as process:
        os.close(source)
        children = []
        while len(children) < 4:
            children = psutil.Process(process.pid).children(recursive=True)
        os.close(lifeline)
        process.wait()
    assert not any(child.is_running() for child in children)
    assert not folder.exists()


steps = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 900)), min_size=1, max_size=20)


@given(messages=steps, page_ns=st.integers(0, 200), lead=st.integers(0, 99))
def test_stages_of_linux_sum_to_the_wall_time(messages, page_ns, lead):
    rows, now, turns, busy = [], lead, 0, 0
    for number, (turn, work) in enumerate(messages):
        turns += turn if number else 0
        now += turn if number else 0
        for stage in (clock.DECODE, clock.TRANSLATE, clock.DISCARD):
            rows.append((stage, now, now + work))
            now += work
            busy += work
    slope = Slope(page_ns, 0, 0, ())
    times = stage_times("inflate", np.array(rows), [(0, now + 7)], 10, slope)
    assert sum(times.values()) == now + 7
    assert times["allocate", "all"] == 10 * page_ns
    assert times["send", "notify"] == turns - 10 * page_ns
    assert times["remainder", "all"] == lead + 7
    assert times["discard", "all"] == busy / 3


def test_pauses_of_reporting_are_not_the_drivers():
    pause = stages_of_linux.PAUSE_NS
    rows = np.array([(clock.DECODE, 5, 10), (clock.DECODE, 10 + pause, 20 + pause)])
    times = stage_times("inflate", rows, [(5, 20 + pause)], 1, None)
    assert times["remainder", "all"] == pause
    assert ("allocate", "all") not in times


@given(page_ns=st.integers(1, 500), fixed_ns=st.integers(0, 10**6), seed=st.integers(0, 9))
def test_the_slope_finds_the_time_per_page(page_ns, fixed_ns, seed):
    noise = np.random.default_rng(seed).normal(0, 1, (50, len(tables.STEPS)))
    found = Slope.of(fixed_ns + page_ns * np.array(tables.STEPS) + noise)
    assert found.low_ns <= found.ns <= found.high_ns
    assert abs(found.ns - page_ns) < 0.1
    assert found.summary()["page_ns"] == page_ns
