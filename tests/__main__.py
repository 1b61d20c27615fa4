"""Lint, check types, and run the suite three ways: compiled, interpreted, bounds checked.

The notebooks and the checks of the project's files do not depend on the mode and
run once (tests marked ``once``). Two runs go side by side. Extra arguments go to pytest.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from tempfile import TemporaryFile

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])

RUNS = {
    "compiled": ({}, "not once"),
    "once, compiled": ({}, "once"),
    "interpreted (NUMBA_DISABLE_JIT=1)": ({"NUMBA_DISABLE_JIT": "1"}, "not once"),
    "bounds checked (NUMBA_BOUNDSCHECK=1)": ({"NUMBA_BOUNDSCHECK": "1"}, "not once"),
}
"""Settings of each run of the suite, and which tests it is of."""

PAIRS = (list(RUNS)[:2], list(RUNS)[2:])
"""Runs that go side by side, for two processors."""


def run_checks() -> list[str]:
    failed = []
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], check=False).returncode:
            failed.append(" ".join(check))
    return failed


def run_pair(names: list[str]) -> list[str]:
    """Run the suite twice at a time; what each says is shown whole, one after the other."""
    print(f"== {', '.join(names)}", flush=True)
    failed = []
    with ExitStack() as stack:
        runs = []
        for name in names:
            settings, which = RUNS[name]
            command = [sys.executable, "-m", "pytest", "-q", "-m", which, *sys.argv[1:]]
            said = stack.enter_context(TemporaryFile("w+"))
            env = os.environ | settings
            runs.append((name, subprocess.Popen(command, env=env, stdout=said), said))
        for name, process, said in runs:
            if process.wait():
                failed.append(name)
            said.seek(0)
            print(f"-- {name}\n{said.read()}", flush=True)
    return failed


def main() -> int:
    failed = run_checks()
    for names in PAIRS:
        failed += run_pair(names)
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
