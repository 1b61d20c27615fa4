"""What can go wrong with a Linux guest, or with a program that prepares one."""

import subprocess
from pathlib import Path


class GuestError(RuntimeError):
    """Something that a guest needs is missing, or it failed; the message names what."""


def run(*command: str, advice: str, stdin: bytes = b"", folder: Path | None = None) -> bytes:
    """Run a program and return its output; a failure is quoted, followed by advice."""
    done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise GuestError(f"{' '.join(command[:3])} failed: {said}; {advice}")
    return done.stdout
