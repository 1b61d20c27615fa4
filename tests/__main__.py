"""Lint, check types, and run the suite three ways: compiled, interpreted, bounds checked.

The notebooks and the checks of the project's files do not depend on the mode and
run once (tests marked ``once``). Three runs go beside each other, for two processors.
``python -m tests oldest`` runs what leans on others' libraries, compiled, with the oldest
of them that ``pyproject.toml`` allows instead. Extra arguments go to pytest.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).parents[1]

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])

FILES = sorted(str(path.relative_to(TOP)) for path in TOP.glob("tests/test_*.py"))
HALVES = (["balloonlab", *FILES[::2]], FILES[1::2])
"""Where the tests are, in two parts of about the same length."""

RUNS: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "once, first half": ({}, "once and not notebook", HALVES[0]),
    "bounds checked (NUMBA_BOUNDSCHECK=1)": ({"NUMBA_BOUNDSCHECK": "1"}, "not once", []),
    "interpreted (NUMBA_DISABLE_JIT=1)": ({"NUMBA_DISABLE_JIT": "1"}, "not once", []),
    "once, second half": ({}, "once and not notebook", HALVES[1]),
    "notebooks": ({}, "notebook", []),
    "compiled": ({}, "not once", []),
}
"""Settings of each run of the suite, which tests it is of and where they are; what takes compiled
kernels after one that compiles them."""

OLDEST = "libraries"
"""Which tests run with the oldest dependencies."""

LANES = 3
"""Runs at a time, for two processors: a third of the time a run waits for a guest or a device."""

# Old packages warn of what their own, newer dependencies are about to drop.
TOLERANT = ("-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning")


def run_checks() -> list[str]:
    failed = []
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], check=False).returncode:
            failed.append(" ".join(check))
    return failed


def run_suite(name: str) -> str:
    """Run the suite once; what it says is shown whole, when it has ended. Return what failed."""
    settings, which, where = RUNS[name]
    command = [sys.executable, "-m", "pytest", "-q", "-m", which, *sys.argv[1:], *where]
    env = os.environ | settings
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    print(f"== {name}\n{done.stdout}", flush=True)
    return name if done.returncode else ""


def oldest() -> list[str]:
    """Pin every direct dependency but linters to the oldest version allowed."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["notebooks"], *extras["test"]]
    return [entry.replace(">=", "==") for entry in direct if ">=" in entry]


def run_oldest(arguments: list[str]) -> int:
    """Make an environment of the oldest dependencies, and run the tests of them in it."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python, pins = f"{folder}/bin/python", f"{folder}/oldest.txt"
        Path(pins).write_text("\n".join(oldest()))
        print("== the oldest dependencies:", *oldest(), flush=True)
        install = [python, "-m", "pip", "install", "-q", "-c", pins, "-e", f"{TOP}[test]"]
        subprocess.run(install, check=True)
        command = [python, "-m", "pytest", "-q", *TOLERANT, "-m", OLDEST, *arguments]
        with ThreadPoolExecutor(LANES) as lanes:
            ended = lanes.map(lambda half: _shown([*command, *half]), HALVES)
            return sum(ended)


def _shown(command: list[str]) -> int:
    """Run a command at the top; what it says is shown whole, when it has ended."""
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    return done.returncode


def main() -> int:
    if sys.argv[1:2] == ["oldest"]:
        return run_oldest(sys.argv[2:])
    print("== the suite, which takes some twenty minutes", flush=True)
    with ThreadPoolExecutor(LANES) as lanes:
        checked = lanes.submit(run_checks)
        failed = [*filter(None, lanes.map(run_suite, RUNS))]
    failed += checked.result()
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
