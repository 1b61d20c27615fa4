"""Lint, check types, and run the suite three ways: compiled, interpreted, bounds checked.

The notebooks and the checks of the project's files do not depend on the mode and
run once. Extra arguments go to pytest.
"""

import os
import subprocess
import sys

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])

MODES = {
    "compiled": {},
    "interpreted (NUMBA_DISABLE_JIT=1)": {"NUMBA_DISABLE_JIT": "1"},
    "bounds checked (NUMBA_BOUNDSCHECK=1)": {"NUMBA_BOUNDSCHECK": "1"},
}


def main() -> int:
    failed = []
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], check=False).returncode:
            failed.append(" ".join(check))
    for mode, settings in MODES.items():
        print(f"== {mode}", flush=True)
        once = ["-m", "not once"] if settings else []
        command = [sys.executable, "-m", "pytest", "-q", *once, *sys.argv[1:]]
        if subprocess.run(command, env=os.environ | settings, check=False).returncode:
            failed.append(mode)
    for mode in failed:
        print(f"FAILED: {mode}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
