"""An unmodified QEMU's balloon device: its memory really goes away, its failures are errors."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab import wire
from balloonlab.cli.commands import app
from balloonlab.guest import BalloonDriver
from balloonlab.kernels import doorbell, vring
from balloonlab.kernels import driver as kernels
from balloonlab.kernels.buddy import free_blocks
from balloonlab.kernels.clock import Log
from balloonlab.kernels.encode import encode_batch
from balloonlab.kernels.formats import Encoding
from balloonlab.kernels.sending import COUNTERS
from balloonlab.pages import Buddy
from balloonlab.qemu import (
    FILL,
    FIRMWARE,
    HostView,
    QemuError,
    QemuProcess,
    QemuTransport,
    page_index,
    process,
    transport,
)
from balloonlab.qemu.qtest import Qtest
from balloonlab.queue import QUEUE_BYTES, build_ring
from balloonlab.sizes import GIB, MIB
from balloonlab.wire.format import make_encoder

from . import naive
from .qemu import children, measure, needs_qemu

PAGES = 64 * MIB // 4096
OWN_BYTES = 8 * MIB  # by which QEMU's own heap may change meanwhile: it is trimmed now and then


@pytest.fixture
def qemu():
    with QemuProcess(PAGES, thp=False) as process:
        yield process
    assert not psutil.pid_exists(process.pid)


def driver_at(qemu, buddy=None, log_rows=16):
    return BalloonDriver(QemuTransport(qemu), buddy or Buddy.idle(PAGES), wire.get("pfn"), log_rows)


def outside_firmware():
    pages = np.ones(PAGES, bool)
    pages[FIRMWARE] = False
    return pages


# The kernels, against a peer that plays QEMU's side


def ends_at(fd):
    """A queue whose kicks go to a socket."""
    request = np.frombuffer(b"writel 0x10 0x1\n", np.uint8).copy()
    bell = doorbell.Qtest(fd=fd, request=request, reply=np.zeros(64, np.uint8))
    return doorbell.Queue(build_ring(np.zeros(QUEUE_BYTES, np.uint8), interrupts=False), bell)


@given(
    st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=32),
    st.sampled_from([0, 4096, 2 * MIB, 4 * MIB - 1]),
)
def test_a_message_is_what_its_twin_writes(firsts, block_bytes):
    encoding = Encoding.BLOCKS if block_bytes else Encoding.PFNS
    encoder = make_encoder(encoding, 0)._replace(pfns_gpa=0x5000, block_bytes=block_bytes)
    ring = ends_at(-1).ring
    n_bytes = encode_batch(encoder, np.array(firsts, np.uint64), ring)
    expected, length = naive.qemu_message(firsts, block_bytes, 0x5000)
    assert n_bytes == length
    written = ring.desc[: len(expected)]
    assert [tuple(map(int, entry)) for entry in written] == expected
    if block_bytes == 0:
        assert encoder.pfns[: len(firsts)].tolist() == firsts


@pytest.mark.parametrize(
    ("answers", "uses", "outcome"),
    [
        ([b"OK\n"], True, doorbell.USED),
        ([b"O", b"K", b"\n"], True, doorbell.USED),
        ([b"OK\n"], False, doorbell.NOT_USED),
        ([b"ERR what\n"], True, doorbell.REFUSED),
        ([b"x" * 64], True, doorbell.REFUSED),
        ([b"O"], True, doorbell.NO_ANSWER),
        ([], True, doorbell.NO_ANSWER),
    ],
)
def test_what_comes_of_a_kick(answers, uses, outcome):
    ours, theirs = socket.socketpair()
    ends = ends_at(ours.fileno())

    def play():
        with theirs:
            assert theirs.recv(100) == ends.doorbell.request.tobytes()
            assert ends.ring.avail[vring.INDEX] == 1
            ends.ring.used[vring.INDEX] = int(uses)
            for answer in answers:
                theirs.sendall(answer)

    peer = threading.Thread(target=play)
    peer.start()
    log, counters = Log.empty(8), np.zeros(1, COUNTERS)
    encoder, batch = make_encoder(Encoding.PFNS, 3), np.arange(3, dtype=np.uint64)
    with ours:
        clock = kernels.send_pages(batch, batch, encoder, ends, counters, log, 0)
        peer.join()
    found = counters[0]
    assert found["outcome"] == outcome
    assert (clock > 0) == (outcome == doorbell.USED)
    sent = [found[name] for name in ("n_kicks", "wire_bytes", "n_records")]
    assert sent == ([1, 12, 3] if clock > 0 else [0, 0, 3])
    assert log.length[0] == (2 if clock > 0 else 1)


def test_an_answer_that_is_no_ok_is_an_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = Qtest(ours, lambda: "QEMU is gone")
        theirs.sendall(b"FAIL Unknown command\n")
        with pytest.raises(QemuError, match="refused the qtest command 'nonsense': FAIL Unknown"):
            client.command("nonsense")
        theirs.close()
        with pytest.raises(QemuError, match="QEMU is gone"):
            client.readl(0)


def test_page_index_of_both_pieces_of_ram():
    pfns = np.array([0, 3 * GIB // 4096 - 1, 4 * GIB // 4096], np.uint64)
    assert page_index(pfns).tolist() == [0, 3 * GIB // 4096 - 1, 3 * GIB // 4096]


# The device


@needs_qemu
def test_exactly_the_pages_told_are_discarded(qemu):
    """Looked at through QEMU itself: a discarded page reads as zeros, any other as it was."""
    qemu.touch()
    pages = np.random.default_rng(3).choice(np.arange(256, PAGES // 2), 1000, replace=False)
    buddy = Buddy.holding(PAGES, pages)
    driver, view = driver_at(qemu, buddy), HostView(qemu.pid, PAGES)
    assert wire.Feature.REPORTING in driver.features
    rss = psutil.Process(qemu.pid).memory_info().rss
    done = driver.inflate(1000)
    assert done.pages.tolist() == pages.tolist()
    assert (done.n_kicks, done.wire_bytes, done.n_records) == (4, 4000, 1000)
    blocks = np.arange(PAGES // 2, PAGES // 2 + 40 * 64, 64, dtype=np.uint64)
    free_blocks(buddy.blocks, 6, blocks)
    reported = driver.report(40, 6)
    assert sorted(reported.pages) == blocks.tolist()
    assert (reported.n_kicks, reported.wire_bytes, reported.n_records) == (2, 640, 40)
    fall = rss - psutil.Process(qemu.pid).memory_info().rss
    assert abs(fall - (1000 + 40 * 64) * 4096) < OWN_BYTES
    gone = np.zeros(PAGES, bool)
    gone[pages] = True
    gone[PAGES // 2 : PAGES // 2 + 40 * 64] = True
    assert np.flatnonzero(~view.resident() & outside_firmware()).tolist() == (
        np.flatnonzero(gone).tolist()
    )
    seen = np.frombuffer(qemu.qtest.read(0, PAGES * 4096), np.uint8).reshape(PAGES, 4096)
    assert (seen[gone] == 0).all()
    assert (seen[~gone] == FILL).all()
    back = driver.deflate(1000)
    assert back.pages.tolist() == pages[::-1].tolist()
    assert back.n_kicks == 4


@needs_qemu
def test_rehearsals_discard_nothing(qemu):
    qemu.qtest.memset(0, PAGES * 4096, 1)
    driver, view = driver_at(qemu), HostView(qemu.pid, PAGES)
    before = view.resident()
    block = np.full(32, PAGES - 512, np.uint64)
    nowhere = np.full(256, transport.NO_RAM_PFN, np.uint64)
    for queue, pages in (("inflate", nowhere), ("deflate", nowhere), ("reporting", block)):
        assert driver.rehearse(queue, pages, 200, order=9).n_kicks == 400
    assert np.array_equal(view.resident(), before)
    assert view.count_other(outside_firmware(), 1) == 0
    assert view.count_other(outside_firmware(), 2) == PAGES - 32


# Failures


@needs_qemu
def test_a_qemu_killed_in_the_middle_is_told_and_leaves_nothing(qemu):
    driver, view = driver_at(qemu), HostView(qemu.pid, PAGES)

    def kill():
        while driver.log.length[0] < 100:
            os.sched_yield()
        os.kill(qemu.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(QemuError, match=r"ended early by signal SIGKILL; where nobody killed it"):
        driver.rehearse("inflate", np.zeros(1, np.uint64), 1 << 40)
    killer.join()
    with pytest.raises(QemuError, match="SIGKILL"):
        driver.inflate(1)
    with pytest.raises(QemuError, match="SIGKILL"):
        qemu.qtest.readl(0)
    for look in (view.resident, view.rss_bytes, lambda: view.count_other(outside_firmware(), 1)):
        with pytest.raises(QemuError, match=r"gone|cannot be read"):
            look()


@needs_qemu
def test_a_qemu_that_was_stopped_is_told(monkeypatch):
    monkeypatch.setattr("balloonlab.qemu.qtest.TIMEOUT_S", 1)
    with QemuProcess(PAGES, thp=False) as qemu:
        driver = driver_at(qemu)
        os.kill(qemu.pid, signal.SIGSTOP)
        with pytest.raises(QemuError, match="does not answer, though it runs: was it stopped"):
            driver.rehearse("inflate", np.zeros(1, np.uint64), 1)
        qemu.kill()
    assert children() == []


def test_a_device_that_failed_once_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(QemuTransport, "_find", lambda self: 0)
    nobody = SimpleNamespace(qtest=None, driver_memory=None, driver_gpa=0, explain=lambda: "gone")
    peer = QemuTransport(nobody)
    peer.check(doorbell.USED)
    with pytest.raises(QemuError, match="did not use the buffer"):
        peer.check(doorbell.NOT_USED)
    with pytest.raises(QemuError, match="did not use the buffer"):
        peer.check(doorbell.USED)


@needs_qemu
def test_ctrl_c_leaves_no_process_and_no_thread(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("balloonlab.queue.Worker.wait", interrupted)
    monkeypatch.setattr("balloonlab.queue.Worker.join", lambda self: self._done.wait(20))
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert children() == []
    assert [thread for thread in threading.enumerate() if "balloon" in thread.name] == []


@needs_qemu
def test_qemu_ends_with_a_parent_that_is_killed():
    code = "from balloonlab.qemu import QemuProcess as Q\n"
    code += "with Q(16384, False) as q: print(q.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, alive = psutil.wait_procs([orphan], timeout=20)
    assert gone or alive[0].status() == psutil.STATUS_ZOMBIE


@pytest.mark.once
def test_qemu_is_not_started_for_a_parent_that_is_gone():
    """Killed before the launcher could ask to end with it, the parent is another process."""
    launch = [sys.executable, "-I", "-S", "-c", process._LAUNCH]
    for parent, said in ((os.getpid(), "started"), (os.getpid() + 1, "")):
        command = [*launch, str(parent), "0", shutil.which("echo"), "started"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == said


@needs_qemu
def test_a_closed_qemu_leaves_nothing_to_the_cyclic_collector():
    """A Ctrl-C that arrives in Popen's finalizer, run by the collector at some time, is lost."""
    gc.disable()
    try:
        with QemuProcess(PAGES, thp=False) as qemu:
            left = weakref.ref(qemu._process)
        del qemu
        assert left() is None
    finally:
        gc.enable()


@needs_qemu
def test_a_device_that_refuses_or_lacks_something_is_told(qemu, monkeypatch):
    with pytest.raises(QemuError, match="refused the qtest command 'explode'"):
        qemu.qtest.command("explode")
    monkeypatch.setattr(transport, "BALLOON_ID", 99)
    with pytest.raises(QemuError, match="no balloon device"):
        driver_at(qemu)


@needs_qemu
def test_a_device_without_free_page_reporting_is_refused(monkeypatch):
    monkeypatch.setattr("balloonlab.qemu.process.DEVICE", "virtio-balloon-device")
    with pytest.raises(QemuError, match=r"does not offer .*REPORTING.*QEMU 6.0 or later"):
        measure()
    assert children() == []


@needs_qemu
def test_memory_that_is_not_as_the_frame_would_claim_is_refused(monkeypatch):
    monkeypatch.setattr(QemuProcess, "touch", lambda process, advance: None)
    with pytest.raises(RuntimeError, match=r"touched=True.*0 of 16384 pages are backed"):
        measure()


def fake(monkeypatch, folder, text):
    path = folder / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


VERSION = 'echo "QEMU emulator version {}"'
STARTS = f'[ "$1" = --version ] && exec {VERSION.format("9.1.0")}; '


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (VERSION.format("5.2.0 (Debian)"), r"is QEMU 5\.2, but 6\.0 or later"),
        ("echo hello", "does not name QEMU's version, it says 'hello"),
        ("exit 3", "--version failed"),
        (
            STARTS + "echo no memory >&2; exit 3",
            "ended early by exit status 3; it said: no memory; nothing is reported",
        ),
        (STARTS + "kill -TERM $$", "ended early by signal SIGTERM; nothing"),
    ],
)
def test_what_is_no_qemu_or_an_old_one_is_told(monkeypatch, tmp_path, text, words):
    fake(monkeypatch, tmp_path, text)
    with pytest.raises(QemuError, match=words):
        measure()
    assert children() == []


def test_a_missing_qemu_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for command in (measure, lambda: bl.sweep(memory="64MiB", host="qemu", out=tmp_path / "x")):
        with pytest.raises(QemuError, match=r"not installed: install QEMU.*host='lab'"):
            command()
    assert not (tmp_path / "x").exists()
    command = ["reproduce", "--host", "qemu", "--memory", "64MiB", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "is not installed" in result.stderr
    assert "No repeat was finished." in result.stderr
    assert not (tmp_path / "x").exists()


def test_what_does_not_fit_is_refused_before_anything_starts(monkeypatch):
    small = SimpleNamespace(available=GIB, total=GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: small)
    with pytest.raises(MemoryError, match="or less would fit"):
        measure(memory="8GiB")
