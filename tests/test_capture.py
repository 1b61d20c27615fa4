"""Capturing real guests: every part by itself, and one small guest alive."""

import lzma
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from balloonlab import capture, traces
from balloonlab.address_map import LOW_RAM_END
from balloonlab.capture import CaptureError, booted, trace_events
from balloonlab.capture import linux_image as kernel
from balloonlab.cli.commands import app
from balloonlab.linux import initramfs, modules
from balloonlab.linux.states import available_target
from balloonlab.pages import check_in_ram
from balloonlab.sizes import GIB, MIB

from . import naive
from .qemu import children

pytestmark = pytest.mark.once

LACKS = capture.missing()


@pytest.fixture
def live():
    """Skip where no real guest can be captured: QEMU, a compiler or a kernel is missing."""
    if LACKS:
        pytest.skip(f"a capture needs {'; '.join(LACKS)}")
    try:
        kernel.find(None, None)
    except CaptureError as error:
        pytest.skip(str(error))


EVENTS = st.lists(
    st.one_of(
        st.integers(0, 5).map(lambda n: f"virtio_queue_notify vdev 0x55aa n {n} vq 0x7f01"),
        st.integers(0, 2**40).map(
            lambda gpa: f"virtio_balloon_handle_output section name: pc.ram gpa: {gpa * 4096:#x}"
        ),
        st.just("7@17.0:virtio_balloon_handle_output section name: mem gpa: 0x7000"),
        st.just("virtio_balloon_to_target balloon target: 0x40 num_pages: 7"),
    ),
    max_size=60,
)


@given(lines=EVENTS, cuts=st.lists(st.integers(0, 3000)))
def test_trace_output_is_parsed_however_it_is_cut(lines, cuts):
    text = "".join(f"{line}\n" for line in lines)
    parser = trace_events.Parser()
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in pairwise(bounds):
        parser.feed(text[start:end].encode())
    expected = naive.traced_pages(text)
    assert list(zip(parser.pfns, parser.queues, strict=True)) == expected
    queues = [queue for _, queue in expected]
    assert parser.n_held == queues.count(trace_events.INFLATE) - queues.count(trace_events.DEFLATE)


@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([trace_events.INFLATE, trace_events.DEFLATE]))
    ),
    queue=st.sampled_from([trace_events.INFLATE, trace_events.DEFLATE]),
)
def test_the_last_that_was_told_of_a_page_counts(pairs, queue):
    events = trace_events.Events(
        np.array([page for page, _ in pairs], np.uint64), np.array([q for _, q in pairs], np.uint8)
    )
    assert trace_events.settle(events, queue).tolist() == naive.settled(pairs, queue)


def test_pages_of_an_unknown_queue_are_refused():
    events = trace_events.Events(np.zeros(1, np.uint64), np.array([trace_events.UNKNOWN], np.uint8))
    with pytest.raises(CaptureError, match="without the queue"):
        trace_events.settle(events, trace_events.INFLATE)


@given(
    contents=st.dictionaries(
        st.text("abc/._0", min_size=1, max_size=9), st.none() | st.binary(max_size=40), max_size=6
    )
)
def test_a_cpio_archive_holds_its_files(contents):
    listed = naive.read_cpio(initramfs.cpio(contents))
    assert [(name, content) for name, _, content in listed] == [
        (name, content or b"") for name, content in contents.items()
    ]
    modes = [mode for _, mode, _ in listed]
    assert modes == [0o040755 if content is None else 0o100755 for content in contents.values()]


def make_modules(folder, entries):
    """Write modules, each of which depends on others, as `name: (ending, dependencies)`."""
    for name, (ending, needs) in entries.items():
        content = b"\x7fELF\0name=" + name.encode() + b"\0depends=" + needs.encode() + b"\0"
        content = lzma.compress(content) if ending == ".ko.xz" else content
        path = folder / "kernel" / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_downloaded_kernels_are_kept_in_an_absolute_folder_only(tmp_path, monkeypatch):
    monkeypatch.delenv("BALLOONLAB_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for xdg, expected in (("/x", "/x/balloonlab"), ("", tmp_path / ".cache/balloonlab")):
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
        assert kernel.cache_folder() == Path(expected) / "kernels"
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(CaptureError, match="set BALLOONLAB_CACHE, or HOME to an absolute path"):
        kernel.cache_folder()


def test_modules_come_after_what_they_depend_on(tmp_path):
    make_modules(
        tmp_path,
        {
            "virtio_pci": (".ko", "virtio-modern,virtio"),
            "virtio-modern": (".ko.xz", "virtio"),
            "virtio_balloon": (".ko", "virtio,ring"),
            "ring": (".ko", ""),
        },
    )
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    loaded = modules.read_modules(tmp_path, kernel.BALLOON)
    names = [re.search(rb"name=([^\0]*)", module)[1].decode() for module in loaded]
    assert names == ["virtio-modern", "virtio_pci", "ring", "virtio_balloon"]
    with pytest.raises(CaptureError, match=r"must hold the module virtio_blk\.ko"):
        modules.read_modules(tmp_path, kernel.DISK)
    assert modules.read_modules(tmp_path, modules.ONLY_IF_THERE) == []
    (tmp_path / "kernel" / "virtio_blk.ko.br").touch()
    with pytest.raises(CaptureError, match="unpack it first"):
        modules.read_modules(tmp_path, kernel.DISK)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no zstd")
def test_modules_compressed_by_zstd_are_read(tmp_path):
    make_modules(tmp_path, {"virtio_pci": (".ko", "")})
    module = tmp_path / "kernel" / "virtio_pci.ko"
    content = module.read_bytes()
    subprocess.run(["zstd", "-q", "--rm", module], check=True)
    assert modules.read_modules(tmp_path, ("virtio_pci",)) == [content]


def test_the_newest_installed_kernel_with_modules_is_taken(tmp_path, monkeypatch):
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    boot.mkdir()
    for release in ("6.1.0-9-cloud", "6.1.0-10-cloud", "6.2.0"):
        (boot / f"vmlinuz-{release}").touch()
    for release in ("6.1.0-9-cloud", "6.1.0-10-cloud"):
        (modules / release).mkdir(parents=True)
    monkeypatch.setattr(kernel, "BOOT", boot)
    monkeypatch.setattr(kernel, "MODULES", modules)
    found = kernel.find(None, None)
    assert found == (boot / "vmlinuz-6.1.0-10-cloud", modules / "6.1.0-10-cloud")
    given_one = kernel.find(found.image, found.modules)
    assert given_one == found
    with pytest.raises(CaptureError, match="must be given together"):
        kernel.find(found.image, None)
    with pytest.raises(CaptureError, match="kernel must be a file, got"):
        kernel.find(boot, modules)


def without(monkeypatch, *programs):
    """Hide programs from all that looks for them."""
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **how: None if name in programs else which(name, **how)
    )


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("BALLOONLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(kernel, "BOOT", tmp_path)
    without(monkeypatch, booted.QEMU, "cc", "gcc", "clang", "apt-get")
    lacks = capture.missing()
    assert [re.search(r"QEMU|compiler|kernel", line)[0] for line in lacks] == [
        "QEMU",
        "compiler",
        "kernel",
    ]
    with pytest.raises(CaptureError, match=r"not here: QEMU.*qemu-system-x86\); a C compiler"):
        capture.record()
    result = CliRunner().invoke(app, ["capture", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "QEMU" in result.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(CaptureError, match="install one"):
        initramfs.compile_guest()


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("BALLOONLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(kernel, "BOOT", tmp_path / "none")
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(CaptureError, match=r"apt-cache depends .* failed: E: no network; else"):
        kernel.find(None, None)
    (tmp_path / "apt-cache").write_text("#!/bin/sh\n")
    with pytest.raises(CaptureError, match="run apt-get update first"):
        kernel.find(None, None)


@pytest.mark.skipif(initramfs.compiler() is None, reason="there is no C compiler")
def test_a_program_that_does_not_compile_is_said(tmp_path):
    (tmp_path / "bad.c").write_text("int main(void) { return missing; }")
    with pytest.raises(CaptureError, match=r"-Os failed: (?s:.*)missing(?s:.*); the guest's init"):
        initramfs.compile_guest(tmp_path / "bad.c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "busy"}, "state must be one of idle, pagecache, tmpfs30"),
        ({"state": "tmfps50"}, "got 'tmfps50'; the nearest is 'tmpfs50'"),
        ({"memory": "128MiB"}, "at least 256 MiB"),
        ({"memory": "256.5MiB"}, "whole MiB"),
        ({"memory": "much"}, "memory must be a number of bytes"),
        ({"share": 1.0}, "0.01 to 0.99 in whole percent, got 1.0"),
        ({"share": 0.333}, "whole percent"),
        ({"seed": -1}, "seed must be"),
        ({"accelerator": "xen"}, "accelerator must be one of"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        capture.record(**arguments)


def test_a_guest_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("balloonlab.capture.recording.missing", lambda *a, **k: [])
    with pytest.raises(MemoryError, match=r"memory=1 PiB needs 1.018 PiB .*, but only .*"):
        capture.record(memory=1 << 50)


def test_the_full_plan_is_what_the_issue_asked_for():
    full = capture.plan()
    assert len(full) == len({one.name for one in full})
    assert {one.memory_bytes for one in full} == {2 * GIB, 4 * GIB, 8 * GIB}
    for state in capture.STATES:
        shares = {one.share for one in full if one.state == state}
        assert 0.85 in shares
        assert shares == ({0.25, 0.5, 0.85} if len(shares) > 1 else {0.85})
    (one,) = capture.plan(["tmpfs50"], ["512MiB"], [0.25])
    assert one.name == "tmpfs50-512MiB-25"
    assert {w.share for w in capture.plan(["all"], ["2GiB"], [0.1])} == {0.1}


@given(memory=st.integers(1 << 16, 1 << 22), share=st.floats(0.01, 0.99), left=st.floats(0, 1))
def test_a_balloon_never_takes_what_the_guest_needs(memory, share, left):
    available = int(memory * 4096 * left)
    target = available_target(memory, share, available)
    assert 0 <= target <= memory * share
    assert target == 0 or available - target * 4096 >= max(48 * MIB, int(0.03 * memory * 4096))


@pytest.mark.parametrize("state", capture.STATES)
def test_the_commands_of_a_state_are_those_the_guest_knows(state):
    source = initramfs.SOURCE.read_text()
    known = re.findall(r'sscanf\(line, "(\w+)', source)
    for command in capture.STATES[state].commands(8 * GIB, 7 * GIB):
        assert command.split()[0] in known
    assert capture.STATES[state].text


def fake_qemu(folder, script):
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Have all that a capture needs but QEMU, without a compiler or a kernel."""
    make_modules(tmp_path, dict.fromkeys(kernel.BALLOON, (".ko", "")))
    (tmp_path / "vmlinuz").touch()
    monkeypatch.setattr(initramfs, "compile_guest", lambda: b"init")
    monkeypatch.setattr(initramfs, "compiler", lambda: "cc")
    return {"kernel": tmp_path / "vmlinuz", "modules": tmp_path, "accelerator": "tcg"}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'qemu: no such machine' >&2; exit 1", r"QEMU ended\nqemu: no such machine"),
        ("exec sleep 1000", "gave no answer for 0.5 s"),
        ("kill -9 $$", "QEMU ended"),
    ],
)
def test_a_qemu_that_fails_or_hangs_leaves_nothing_behind(prepared, tmp_path, script, message):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CaptureError, match=message):
        capture.record(
            memory="256MiB", qemu=fake_qemu(tmp_path, script), patience_s=0.5, **prepared
        )
    assert not children()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_kvm_that_does_not_work_is_not_insisted_on(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("balloonlab.capture.recording._may_kvm", lambda: True)
    script = 'case "$*" in *accel=kvm*) echo no KVM >&2;; *) echo no TCG >&2;; esac'
    qemu = fake_qemu(tmp_path, script)
    for accelerator, message in ((None, "no TCG"), ("kvm", "no KVM"), ("tcg", "no TCG")):
        with pytest.raises(CaptureError, match=message):
            capture.record(qemu=qemu, **prepared | {"accelerator": accelerator})


FAKE_GUEST = """
import json, os, socket, sys
words = sys.argv
fds = {w.split("id=")[1].split(",")[0]: int(w.rsplit("fd=")[-1]) for w in words if ",fd=" in w}
console = next(w.split("path=")[1] for w in words if "path=" in w)
qmp, wire = socket.socket(fileno=fds["qmp"]), socket.socket(fileno=fds["wire"])
qmp.sendall(b'{"QMP": {}}\\n')
qmp.recv(999)
qmp.sendall(b'{"return": {}}\\n')
open(console, "w").write("[    1.0] Kernel panic - not syncing: out of luck\\n")
%s
"""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("sys.exit()", "QEMU ended, most likely since its guest did"),
        ("wire.recv(1)", r"the guest was silent for 2 s"),
        ("wire.sendall(b'error module 0: bad'); sys.exit()", "answered 'error module 0: bad'"),
        (
            "wire.sendall(b'ready\\n'); qmp.recv(999); "
            'qmp.sendall(b\'{"error": {"desc": "no"}}\\n\'); wire.recv(9)',
            "QEMU refused query-version: no",
        ),
    ],
)
def test_a_guest_that_panics_or_hangs_is_quoted(prepared, tmp_path, act, message):
    (tmp_path / "fake.py").write_text(FAKE_GUEST % act)
    qemu = fake_qemu(tmp_path, f'exec {sys.executable} {tmp_path}/fake.py "$@"')
    with pytest.raises(CaptureError, match=message) as error:
        capture.record(memory="256MiB", qemu=qemu, patience_s=2, **prepared)
    assert "refused" in message or "not syncing: out of luck" in str(error.value)
    assert not children()


def test_finished_captures_are_passed_over(tmp_path, monkeypatch):
    made = []

    def recorded(*arguments, **how):
        made.append(arguments)
        if len(made) == 2:
            raise KeyboardInterrupt
        name = capture.Planned.make(*arguments).name
        row = {**dict.fromkeys(traces.COLUMNS, 1), "name": f"{name}-inflate"}
        return capture.Captured({"name": name, "traces": [row]}, {row["name"]: [3, 4]})

    monkeypatch.setattr("balloonlab.capture.recording.record", recorded)
    arguments = ["capture", "--memory", "2GiB", "--share", "0.25", "--share", "0.5"]
    arguments += ["--out", str(tmp_path)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 130
    assert "the same command goes on" in first.stderr
    assert traces.load("idle-2GiB-25-inflate", tmp_path).tolist() == [3, 4]
    second = CliRunner().invoke(app, arguments)
    assert second.exit_code == 0, second.output
    assert "idle-2GiB-25 is there" in second.stdout
    assert "idle-2GiB-50-inflate: 2 pages" in second.stdout
    assert [share for _, _, share, _ in made] == [0.25, 0.5, 0.5]
    listed = CliRunner().invoke(app, ["capture", "--state", "list"])
    assert [line.split(":")[0] for line in listed.stdout.splitlines()] == list(capture.STATES)


@pytest.mark.timeout(600)
def test_a_real_guest_is_captured(live, tmp_path):
    wanted = capture.plan(["tmpfs50"], ["512MiB"], [0.5])
    ((_, captured),) = capture.record_all(wanted, tmp_path)
    inflate, deflate = captured.pages.values()
    assert sorted(inflate) == sorted(deflate)
    assert 20_000 < inflate.size <= 512 * 256 // 2
    check_in_ram(inflate, 512 * 256)
    assert inflate.max() < LOW_RAM_END
    (row, _) = traces.index(tmp_path).to_dict("records")
    assert row["kernel"].startswith("Linux version")
    assert "nokaslr" in row["command_line"]
    free = [
        sum(np.sum(list(row[k].values()), 0) << np.arange(11))
        for k in ("buddyinfo_before", "buddyinfo_after")
    ]
    assert abs(free[0] - free[1] - inflate.size) < 2000
    assert row["n_moved"] == 0
    assert not children()


@pytest.mark.timeout(600)
def test_a_real_guest_that_panics_is_quoted(live, monkeypatch):
    panic = capture.STATES["idle"]._replace(
        commands=lambda memory, available: ["write /proc/sysrq-trigger c"]
    )
    monkeypatch.setitem(capture.STATES, "idle", panic)
    with pytest.raises(CaptureError, match=r"guest did\n(?s:.*)not syncing: sysrq triggered crash"):
        capture.record(memory="256MiB")
    assert not children()


KILLED = """
import os, signal, threading, psutil
from balloonlab import capture
def kill():
    while not any(child.name().startswith("qemu") for child in psutil.Process().children()):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill).start()
capture.record(memory="256MiB", share=0.3)
"""
"""Ends at once, and its guest has begun to boot."""


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
def test_qemu_ends_with_the_process_that_started_it(live, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, env=environment)
    assert done.returncode == -9
    (folder,) = Path(tmp_path).iterdir()
    running = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info["cmdline"])]
    psutil.wait_procs(running, timeout=30)
    assert not [p for p in running if p.is_running()]
