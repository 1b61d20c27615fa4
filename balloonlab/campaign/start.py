"""One process start: measured by a process of its own, whole or not at all, with its noise."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd

from ..measurement.reading import META, TIMINGS, load, read_meta
from ..measurement.starts import as_start
from ..measurement.store import Store
from ..measurement.surroundings import Noise, NoiseMeter

MARK = "start.json"
"""Is written last: a folder that has it is whole."""

MOST_S = 1800
"""A start that takes longer hangs: it is ended, and failed."""

LIMITS = {"steal_percent": 2.0, "others": 0.25}
"""Of `balloonlab.measurement.surroundings.Noise`: a start beyond is measured again."""


class StartError(RuntimeError):
    """A start could not be measured; the message is the last that it said."""


@dataclass(frozen=True)
class Stored:
    """A start that is there, whole.

    Attributes
    ----------
    folder : pathlib.Path
    mark : dict
        ``function``, ``arguments``, ``start``, ``utc_time``, ``seconds``, ``noise``, ``tries``.
    """

    folder: Path
    mark: dict[str, Any]

    @property
    def noise(self) -> Noise:
        """Return what else the processors did meanwhile."""
        return Noise(**self.mark["noise"])

    @property
    def beyond(self) -> list[str]:
        """Return the marks of noise that are beyond the limits."""
        return self.noise.beyond(LIMITS)


def find(folder: Path, function: str, arguments: dict[str, Any]) -> Stored | None:
    """Return the start that a folder holds, if it is whole and of these arguments."""
    try:
        mark = json.loads((folder / MARK).read_text())
        same = mark["function"] == function and mark["arguments"] == arguments
        return Stored(folder, mark) if same and Noise(**mark["noise"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measure(
    folder: Path, function: str, arguments: dict[str, Any], number: int, run: str, tries: int = 1
) -> Stored:
    """Measure a start into a folder, which is there when all of it is; replaces what was there.

    A noisier start than the one that is there is dropped. StartError where it went wrong.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    began, before = time.monotonic(), NoiseMeter()
    utc_time = datetime.now(UTC).isoformat(timespec="seconds")
    _run_child(function, arguments, number, run, part)
    seconds = round(time.monotonic() - began, 2)
    noise = NoiseMeter().since(before)
    _check_whole(part)
    mark = {"function": function, "arguments": arguments, "start": number, "utc_time": utc_time}
    mark |= {"seconds": seconds, "noise": noise._asdict(), "tries": tries}
    earlier = find(folder, function, arguments)
    if earlier and _noisier(noise, earlier.noise):
        shutil.rmtree(part)
        earlier.mark["tries"] = tries
        Store(folder).replace(MARK, json.dumps(earlier.mark, indent=2) + "\n")
        return earlier
    Store(part).replace(MARK, json.dumps(mark, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return Stored(folder, mark)


def _noisier(one: Noise, other: Noise) -> bool:
    """Whether the worst mark, as a share of its limit, is worse."""
    worst = [max(getattr(n, name) / most for name, most in LIMITS.items()) for n in (one, other)]
    return worst[0] > worst[1]


def _run_child(
    function: str, arguments: dict[str, Any], number: int, run: str, folder: Path
) -> None:
    """Run a function in a process of its own, which ends with this one."""
    code = f"import json, sys; from {__name__} import run_start; run_start(**json.load(sys.stdin))"
    job = {"function": function, "arguments": arguments, "number": number, "run": run}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, input=json.dumps(job | {"folder": str(folder)}), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, check=False, timeout=MOST_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StartError(f"it took more than {MOST_S} seconds") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise StartError(said[-1][-500:])


def run_start(function: str, arguments: dict[str, Any], number: int, run: str, folder: str) -> None:
    """Measure a start in this process, which is a child of its own for that."""
    _end_with_parent()
    call_as_start(function, arguments, number, run, folder)


def call_as_start(
    function: str, arguments: dict[str, Any], number: int, run: str, folder: str
) -> None:
    """Call a public function of balloonlab as one of several starts of a run."""
    import balloonlab

    call = reduce(getattr, function.split("."), balloonlab)
    with as_start(number, run):
        call(**arguments, out=folder, progress=False)  # type: ignore[operator]


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent ends (PR_SET_PDEATHSIG)."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)


def _check_whole(folder: Path) -> None:
    """Refuse what a start left behind if something of it went wrong (StartError)."""
    if not (folder / META).is_file():
        raise StartError(f"it left no {META}")
    if not (folder / TIMINGS).exists():
        if not any(len(pd.read_csv(path)) for path in folder.glob("*.csv")):
            raise StartError("it left no table")
        return
    run = load(folder)
    failed = run.skipped[run.skipped["outcome"] == "failed"]
    if len(failed):
        raise StartError(f"{len(failed)} of its cases failed: {failed['reason'].iloc[0]}")
    if run.frame.empty or not read_meta(folder).get("finished"):
        reasons = ", ".join(run.skipped["reason"].unique()[:1])
        raise StartError(f"none of its cases was measured: {reasons}")
