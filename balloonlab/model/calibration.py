"""Costs of one's own machine: the few cases that tell every cost from the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

from ..host.policy import check_vectored
from ..measurement.options import PathLike, check_number
from ..measurement.run import Run
from ..measurement.runner import run_cases
from ..measurement.setups import make_case
from ..sizes import Size
from .cost import CostModel, fit, load_model

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
        As `balloonlab.measure`.

    Examples
    --------
    >>> model = calibrate(out="here.json")  # doctest: +SKIP
    >>> bl.predict(memory="8GiB", protocol="pfn", model="here.json")  # doctest: +SKIP
    """
    check_number("starts", starts, 1)
    runs = {}
    for number in range(starts):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            work = process.submit(measure_start, tuple(guests), memory, repeats)
            runs[f"start {number + 1}"] = work.result()
    model = fit(runs, prior=load_model())
    if out is not None:
        model.save(out)
    return model


def measure_start(guests: Iterable[str], memory: Size, repeats: int) -> Run:
    """Measure the cases of a calibration once; a process start is one run.

    A case that fails its checks (huge pages that the kernel put together meanwhile) is left out.
    """
    asked = [{"memory": memory, "guest": guest} | case for guest in guests for case in cases()]
    made = [make_case(**case, repeats=repeats) for case in asked]
    run = run_cases(made, "calibrate", {"cases": asked}, strict=False, progress=False)
    if run.frame.empty:
        raise RuntimeError(f"no case could be measured: {run.skipped['reason'].iloc[0]}")
    return run
