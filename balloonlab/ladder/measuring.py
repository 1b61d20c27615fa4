"""``balloonlab bench``: every rung from the legacy driver to the floor, measured in turns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..measurement.case import Case
from ..measurement.options import Guest, PathLike, check_choice, check_number
from ..measurement.run import Run
from ..measurement.runner import run_cases
from ..measurement.setups import make_case
from ..measurement.store import check_out
from ..sizes import PAGE_BYTES, Size, parse_pages
from ..vcpu import KvmError, describe
from .rungs import RUNGS, SCENARIOS

GUESTS = ("thread", "kvm")


def bench(
    memory: Size = "2GiB",
    guests: Iterable[Guest] | None = None,
    scenarios: Iterable[str] | None = None,
    repeats: int = 3,
    out: PathLike | None = None,
    progress: bool = True,
) -> Run:
    """Measure the ladder: from a message per 256 pages and a call per page down to the floor.

    Parameters
    ----------
    memory : int or str
        RAM of the guests.
    guests : iterable of {'thread', 'kvm'}, optional
        Who runs the driver; both where there is KVM, by default.
    scenarios : iterable of str, optional
        Which guests, of `SCENARIOS`; all by default.
    repeats : int
        Measured repeats of each case, after a warm-up.
    out : path-like, optional
        Folder for the tables, as in `balloonlab.measure`. An unfinished run of the same arguments,
        machine and code goes on; any other is set aside.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Run
        `balloonlab.ladder.rung_times` makes the ladder of it, `balloonlab.figures.ladder` draws it.
        Errors are those of `balloonlab.measure`.

    Examples
    --------
    >>> run = bench("16MiB", ["thread"], ["idle, untouched"], repeats=1, progress=False)
    >>> run.frame["run_id"].nunique()
    8
    """
    if out is not None:
        check_out(out)
    check_number("repeats", repeats, 1)
    chosen = list(SCENARIOS) if scenarios is None else list(scenarios)
    for name in chosen:
        check_choice("scenarios", name, SCENARIOS)
    ran_by = _there() if guests is None else list(guests)
    for guest in ran_by:
        check_choice("guests", guest, GUESTS)
    memory_bytes = parse_pages(memory, "memory") * PAGE_BYTES
    cases = [
        _case(memory_bytes, guest, SCENARIOS[name], rung.options, repeats)
        for guest in ran_by
        for name in chosen
        for rung in RUNGS
        if not (SCENARIOS[name]["pattern"] != "idle" and rung is RUNGS[-1])
    ]
    arguments = {"memory_bytes": memory_bytes, "guests": ran_by, "scenarios": chosen}
    arguments["repeats"] = int(repeats)
    return run_cases(cases, "bench", arguments, out=out, progress=progress, set_aside=True)


def _there() -> list[Guest]:
    """Return the guests that this machine can run."""
    try:
        describe()
    except KvmError:
        return ["thread"]
    return ["thread", "kvm"]


def _case(
    memory_bytes: int, guest: Guest, scenario: dict[str, Any], rung: dict[str, Any], repeats: int
) -> Case:
    options = {**scenario, **rung, "memory": memory_bytes, "guest": guest, "repeats": int(repeats)}
    return make_case(**options)
