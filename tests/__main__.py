"""Lint, check types, and run the suite three ways: compiled, interpreted, bounds checked.

The notebooks and the checks of the project's files do not depend on the mode and
run once. Extra arguments go to pytest.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from tempfile import TemporaryFile

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])

MODES = {
    "compiled": {},
    "interpreted (NUMBA_DISABLE_JIT=1)": {"NUMBA_DISABLE_JIT": "1"},
    "bounds checked (NUMBA_BOUNDSCHECK=1)": {"NUMBA_BOUNDSCHECK": "1"},
}

TOGETHER = (list(MODES)[:1], list(MODES)[1:])
"""Modes that run at the same time; the first, which has the most to do, has the machine alone."""


def run_checks() -> list[str]:
    failed = []
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], check=False).returncode:
            failed.append(" ".join(check))
    return failed


def run_modes(modes: list[str]) -> list[str]:
    """Run modes side by side; what each of several says is shown whole, one after the other."""
    print(f"== {', '.join(modes)}", flush=True)
    failed = []
    with ExitStack() as stack:
        runs = []
        for mode in modes:
            once = ["-m", "not once"] if MODES[mode] else []
            command = [sys.executable, "-m", "pytest", "-q", *once, *sys.argv[1:]]
            said = stack.enter_context(TemporaryFile("w+")) if len(modes) > 1 else None
            env = os.environ | MODES[mode]
            runs.append((mode, subprocess.Popen(command, env=env, stdout=said), said))
        for mode, process, said in runs:
            if process.wait():
                failed.append(mode)
            if said is not None:
                said.seek(0)
                print(f"-- {mode}\n{said.read()}", flush=True)
    return failed


def main() -> int:
    failed = run_checks()
    for modes in TOGETHER:
        failed += run_modes(modes)
    for mode in failed:
        print(f"FAILED: {mode}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
