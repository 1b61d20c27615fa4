"""Lint, check types, and run the suite three ways: compiled, interpreted, bounds checked.

The notebooks and the checks of the project's files do not depend on the mode and
run once (tests marked ``once``). Runs go in two lanes, for two processors. Extra arguments
go to pytest.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])

RUNS = {
    "compiled": ({}, "not once"),
    "once, compiled": ({}, "once"),
    "interpreted (NUMBA_DISABLE_JIT=1)": ({"NUMBA_DISABLE_JIT": "1"}, "not once"),
    "bounds checked (NUMBA_BOUNDSCHECK=1)": ({"NUMBA_BOUNDSCHECK": "1"}, "not once"),
}
"""Settings of each run of the suite, and which tests it is of."""

LANES = (
    ("once, compiled", "interpreted (NUMBA_DISABLE_JIT=1)"),
    ("compiled", "bounds checked (NUMBA_BOUNDSCHECK=1)"),
)
"""Runs one after the other, and beside them the others: about as long."""


def run_checks() -> list[str]:
    failed = []
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], check=False).returncode:
            failed.append(" ".join(check))
    return failed


def run_lane(names: tuple[str, ...]) -> list[str]:
    """Run the suite several times; what each run says is shown whole, when it has ended."""
    failed = []
    for name in names:
        settings, which = RUNS[name]
        command = [sys.executable, "-m", "pytest", "-q", "-m", which, *sys.argv[1:]]
        env = os.environ | settings
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
        print(f"== {name}\n{done.stdout}", flush=True)
        if done.returncode:
            failed.append(name)
    return failed


def main() -> int:
    failed = run_checks()
    print("== the suite, which takes some ten minutes", flush=True)
    with ThreadPoolExecutor(len(LANES)) as lanes:
        for names in lanes.map(run_lane, LANES):
            failed += names
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
