"""Where a number comes from: machine, kernel, versions, commit, time."""

from __future__ import annotations

import json
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from numba import config

from .. import kernels
from ..host.ram import thp_state
from ..kernels.compile import digest
from .surroundings import describe_surroundings

PACKAGES = ("balloonlab", "numba", "llvmlite", "numpy", "pandas")


def cpu_model() -> str:
    """Return the processor's name as the kernel has it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit this code came from, ``-dirty`` where files were changed; else None."""
    top = Path(__file__).parents[2]
    if (top / ".git").exists():
        try:
            name = _git(top, "rev-parse", "--short=12", "HEAD")
            changed = _git(top, "status", "--porcelain", "--untracked-files=no")
        except (OSError, subprocess.CalledProcessError):
            return None
        return f"{name}-dirty" if changed else name
    with suppress(metadata.PackageNotFoundError):
        origin = metadata.distribution("balloonlab").read_text("direct_url.json")
        return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def describe_machine() -> dict[str, Any]:
    """Return what a run of this moment would run on."""
    return {
        "utc_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu_model": cpu_model(),
        "cpu_count": psutil.cpu_count(),
        "machine": platform.machine(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": f"{platform.system()} {platform.release()}",
        "thp": thp_state(),
        "python": platform.python_version(),
        "compiled": not config.DISABLE_JIT,
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit(),
        "kernels": digest(Path(kernels.__path__[0])),
        "surroundings": describe_surroundings(),
    }


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None
