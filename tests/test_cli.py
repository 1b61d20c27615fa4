"""What all commands share: one line instead of a traceback, and an end on Ctrl-C."""

import signal
import subprocess
import sys

import pandas as pd
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from balloonlab.cli.app import reported
from balloonlab.cli.commands import app
from balloonlab.selftest import benchmark, hostile, tables, verify

pytestmark = pytest.mark.once


def run_reported(error, **how):
    own = typer.Typer(pretty_exceptions_enable=False)

    @own.command()
    def fail():
        with reported(**how):
            raise error

    return CliRunner().invoke(own)


@pytest.mark.parametrize(
    ("error", "how", "status", "message"),
    [
        (ValueError("k must be 1"), {}, 2, "balloonlab: k must be 1"),
        (ValueError("k must be 1"), {"kept": lambda: "All is there."}, 2,
         "balloonlab: k must be 1"),
        (NotImplementedError("Linux only"), {}, 2, "balloonlab: Linux only"),
        (ImportError("no pyroaring"), {}, 2, "balloonlab: no pyroaring"),
        (MemoryError(), {}, 2, "balloonlab: MemoryError"),
        (RuntimeError("it broke."), {"kept": lambda: "All is there."}, 2,
         "balloonlab: it broke. All is there."),
        (OSError(28, "No space left"), {"out": "d"}, 2,
         "balloonlab: No space left, while writing to d"),
        (OSError(28, "No space left", "d/x"), {"out": "d"}, 2,
         "balloonlab: [Errno 28] No space left: 'd/x'"),
        (KeyboardInterrupt(), {}, 130, "Interrupted."),
        (KeyboardInterrupt(), {"kept": lambda: "One is there."}, 130,
         "Interrupted. One is there."),
        (typer.Exit(3), {}, 3, ""),
    ],
)  # fmt: skip
def test_errors_are_one_line(error, how, status, message):
    result = run_reported(error, **how)
    assert (result.exit_code, result.stderr.strip()) == (status, message)


def test_an_error_of_the_program_itself_is_not_hidden():
    assert isinstance(run_reported(KeyError("x")).exception, KeyError)


def test_the_version_is_printed():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("balloonlab 0.")
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout


INTERRUPTED = """
import signal, sys
left = int(sys.argv.pop())
def hook(event, arguments):
    global left
    if event == "import" and "balloonlab.cli" in sys.modules:
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)
sys.addaudithook(hook)
signal.signal(signal.SIGINT, signal.default_int_handler)
from balloonlab.cli import main
main()
"""
"""Takes Ctrl-C at the n-th import of the command."""


@pytest.mark.parametrize("moment", [3, 10, 50, 100, 400, 1000])
def test_ctrl_c_while_modules_load_leaves_no_traceback(moment):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "fuzz", "--cases", "10000000", str(moment)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_an_ignored_ctrl_c_stays_ignored():
    """As under nohup, or in the background of a shell script."""
    ignored = INTERRUPTED.replace("signal.default_int_handler", "signal.SIG_IGN")
    done = subprocess.run(
        [sys.executable, "-c", ignored, "--version", "10"], capture_output=True, timeout=60
    )
    assert done.returncode == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SMALL = {
    "kernels": ([], "kernels.csv"),
    "fuzz": (["--cases", "400"], "fuzz.csv"),
    "verify": (["--memory", "2MiB"], "contents.csv"),
}


@pytest.fixture
def small_tasks(monkeypatch):
    task = benchmark.Task("sum", "page", 3, 1, {"a": lambda: 0, "balloonlab": lambda: 1})
    named = benchmark.Task(benchmark.IDLE_TASK, "page", 3, 1, task.contenders)
    monkeypatch.setattr(benchmark, "_SMALL", (lambda: named, lambda: task))


@pytest.mark.parametrize("command", SMALL)
def test_self_tests_keep_their_table_and_check_the_folder_first(command, small_tasks, tmp_path):
    arguments, table = SMALL[command]
    out = tmp_path / "new"
    result = CliRunner().invoke(app, [command, *arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(out / table)) > 1
    assert (out / "meta.json").exists()
    (tmp_path / "file").touch()
    for bad, message in ((str(tmp_path / "file"), "is a file"), ("", "out must name a folder")):
        result = CliRunner().invoke(app, [command, *arguments, "--out", bad])
        assert result.exit_code == 2
        assert result.stderr.startswith("balloonlab: out must")
        assert message in result.stderr
        assert not result.stdout  # nothing was run


def test_capture_checks_its_folder_first(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["capture", "--out", str(tmp_path / "file")])
    assert (result.exit_code, "is a file" in result.stderr) == (2, True)


def test_large_guests_are_timed_only_when_asked_for(small_tasks, monkeypatch):
    assert benchmark.time_kernels(progress=False)["task"].unique().tolist() == [
        benchmark.IDLE_TASK,
        "sum",
    ]
    made = []
    monkeypatch.setattr(benchmark, "_large", lambda size: made.append(size))
    benchmark.time_kernels(large=True, progress=False)
    assert made == list(benchmark.LARGE_TASKS)
    assert "--large adds them: 33GiB, 100GiB, 1TiB" in CliRunner().invoke(app, ["kernels"]).stdout


def bench_rows():
    tasks = [*benchmark.LARGE_TASKS.values(), benchmark.IDLE_TASK, "runs of a half-full bitmap"]
    tasks += benchmark.FORMAT_TASKS.values()
    contenders = ["read the bitmap once", "balloonlab", "balloonlab, out= reused"]
    row = {"median_ms": 1234.5, "ns_per_item": 123.456, "item": "page", "ratio": 12.345}
    return pd.DataFrame(
        {"task": task, "contender": name} | row for task in tasks for name in contenders
    )


@pytest.mark.parametrize(
    ("make", "render"),
    [
        (lambda: verify("2MiB", progress=False), tables.render_contents),
        (lambda: hostile.fuzz(400, progress=False), tables.render_fuzz),
        (bench_rows, lambda rows: tables.render_kernels(rows, ["pyroaring"], large=False)),
    ],
)
def test_tables_fit_80_columns_and_cut_no_cell(make, render):
    rows = make()

    def printed(width):
        console = Console(width=width)
        with console.capture() as capture:
            console.print(render(rows))
        return capture.get()

    assert max(len(line.rstrip()) for line in printed(80).splitlines()) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed(80)
    rule = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    words = [sorted(printed(width).replace(rule, "").split()) for width in (80, 300)]
    assert words[0] == words[1]


def test_a_timeline_of_a_guest_that_logs_nothing_is_refused_in_one_line(tmp_path):
    command = ["timeline", "--guest", "linux", "--memory", "512MiB", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    words = "guest must be 'thread' or 'kvm' for a timeline, got 'linux': leave guest out"
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "x").exists()
