"""What all commands share: one line instead of a traceback, and an end on Ctrl-C."""

import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from balloonlab.cli.app import reported
from balloonlab.cli.commands import app

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
        (ValueError("k must be 1"), {"kept": "All is there."}, 2, "balloonlab: k must be 1"),
        (NotImplementedError("Linux only"), {}, 2, "balloonlab: Linux only"),
        (ImportError("no pyroaring"), {}, 2, "balloonlab: no pyroaring"),
        (MemoryError(), {}, 2, "balloonlab: MemoryError"),
        (RuntimeError("it broke."), {"kept": "All is there."}, 2,
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
