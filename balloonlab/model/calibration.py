"""Costs of one's own machine: the few cases that tell every cost from the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..host.policy import check_vectored
from ..measurement.options import PathLike, check_number, names_of
from ..measurement.reading import load
from ..measurement.run import Run
from ..measurement.runner import run_cases
from ..measurement.setups import make_case
from ..sizes import Size
from .cost import CostModel, load_model
from .evidence import GUESTS
from .joint import fit

FILE = "balloonlab-costs.json"
MEMORY, STARTS, REPEATS = "256MiB", 2, 2

SMALL = "32MiB"

PAGES: tuple[dict[str, Any], ...] = (
    {"pattern": "idle"},
    {"pattern": "random", "balloon": 0.5},
    {"pattern": "geometric:16", "balloon": 0.5},
)
"""Few calls and many, few kicks and many, for the same pages."""

MESSAGES: tuple[dict[str, Any], ...] = (
    {"protocol": "bitmap-v4"},
    {"protocol": "pfn"},
    {"protocol": "pfn", "discard": "range"},
)
VECTORED: tuple[dict[str, Any], ...] = (
    {"protocol": "pfn", "discard": "vector"},
    {"protocol": "pfn", "discard": "sorted-vector"},
    {"protocol": "pfn", "discard": "sorted-vector", "collect": 32},
)
STATES: tuple[dict[str, Any], ...] = (
    {"touched": True},
    {"touched": False},
    {"touched": True, "thp": True},
    {"touched": False, "thp": True},
)


def cases() -> list[dict[str, Any]]:
    """Return the cases of a calibration, as arguments of `balloonlab.measure`.

    Vectored calls are among them where the kernel has them.
    """
    messages = MESSAGES
    try:
        check_vectored()
    except NotImplementedError:
        pass
    else:
        messages += VECTORED
    found = [state | {"protocol": "madvise"} for state in STATES]
    found += [state | pages | how for state, pages, how in product(STATES, PAGES, messages)]
    small = {"memory": SMALL, "pattern": "idle"}  # as few kicks for fewer pages
    return found + [state | small | how for state, how in product(STATES, MESSAGES)]


def calibrate(
    out: PathLike | None = FILE,
    guests: Sequence[str] = ("thread",),
    memory: Size = MEMORY,
    starts: int = STARTS,
    repeats: int = REPEATS,
) -> CostModel:
    """Measure what a page, a kick, a call cost on this machine, and store it for `predict`.

    Each start is a process of its own: costs differ between them. What so few cannot say is taken
    from the shipped runs: how far runs and cases stray at least, and that times are proportional to
    memory, from 0.25 to 16 GiB.

    Parameters
    ----------
    out : path-like, optional
        The file to store the costs in, which ``balloonlab.predict(model=...)`` takes; None for no
        file.
    guests : sequence of str
        ``thread``, ``kvm``, or both: who runs the driver.
    memory : int or str
        RAM of the guest.
    starts, repeats : int
        Process starts, and measured repeats of each case in each.

    Returns
    -------
    CostModel

    Raises
    ------
    ValueError, RuntimeError, MemoryError
        As `balloonlab.measure`. A FileNotFoundError where there is no folder for `out`.

    Examples
    --------
    >>> model = calibrate(out="here.json")  # doctest: +SKIP
    >>> bl.predict(memory="8GiB", protocol="pfn", model="here.json")  # doctest: +SKIP
    """
    check_number("starts", starts, 1)
    asked = [
        {"memory": memory, "guest": guest, "repeats": repeats} | case
        for guest in names_of("guests", guests, GUESTS.values())
        for case in cases()
    ]
    for case in asked:
        make_case(**case)  # refuses what cannot be, before the work
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise FileNotFoundError(f"out must be a file in a folder that is there, got {out}")
    prior, runs = load_model(), {}
    with TemporaryDirectory() as folder:
        for number in range(starts):
            runs[f"start {number + 1}"] = _start(asked, f"{folder}/{number}")
    model = fit(runs, prior=prior)
    if out is not None:
        model.save(out)
    return model


def _start(asked: list[dict[str, Any]], folder: str) -> Run:
    """Measure the cases in a process of its own.

    Not of `multiprocessing`, which would run the caller's script once more.
    """
    code = (
        f"import json, sys; from {__name__} import measure_start as run; run(*json.load(sys.stdin))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, input=json.dumps([asked, folder]), stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a start could not be measured: {done.stderr.strip()[-500:]}")
    return load(folder)


def measure_start(asked: list[dict[str, Any]], folder: str) -> None:
    """Measure the cases of a calibration once, into a folder; a process start is one run.

    A case that fails its checks (huge pages that the kernel put together meanwhile) is left out.
    """
    made = [make_case(**case) for case in asked]
    run = run_cases(made, "calibrate", {"cases": asked}, out=folder, strict=False, progress=False)
    if run.frame.empty:
        raise RuntimeError(f"no case could be measured: {run.skipped['reason'].iloc[0]}")
