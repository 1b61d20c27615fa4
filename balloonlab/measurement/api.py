"""Measure balloons on real memory: a case, several, or every combination; one tidy frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Never, Unpack

import numpy as np

from ..sizes import PAGE_BYTES, parse_pages
from .case import digest
from .fleet import run_on_fleet
from .options import TABLE, Options, PathLike, check_number, takes_options
from .run import Run
from .runner import run_cases
from .setups import make_case


@takes_options()
def measure(
    *, out: PathLike | None = None, progress: bool = True, **options: Unpack[Options[Never]]
) -> Run:
    """Inflate or deflate a balloon in a guest of real memory and time every stage.

    Guest driver and host device run as two threads of compiled code; messages go over a split
    virtqueue in shared memory, and the host discards real pages of a private mapping with
    ``madvise(MADV_DONTNEED)``. One warm-up repeat is made and dropped.

    Parameters
    ----------
    {options}
    out : path-like, optional
        Folder for ``timings.csv``, ``checks.csv``, ``skipped.csv`` and ``meta.json``; each repeat
        is on disk before the next one starts, and the same call goes on where it stopped. Nothing
        is written without.
    progress : bool
        Show a progress bar when standard error is a terminal or in a notebook.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule; the message names it. `out` holds another run.
    MemoryError
        The guest does not fit the memory that is available (or a cgroup's limit).
    NotImplementedError
        The platform lacks what measuring needs; the message lists it.
    RuntimeError
        Memory did not change as it must have, another thread of this process is measuring, or
        ``bitmap-v4-posted`` crashed its guest or left pages out; nothing is reported then. A
        `balloonlab.qemu.QemuError`: QEMU is missing, older than 6.0, died, or answered an error.

    Notes
    -----
    With ``host="qemu"`` every repeat has a process of its own: an unmodified ``microvm`` without a
    guest kernel, never run. The same compiled code writes the messages into its memory. A kick is a
    line of text over a socket (qtest) to QEMU's main thread: a wake-up there and back, as an
    ioeventfd has, but no exit from a guest. Rows have ``source="qemu"``; their stages are separated
    by difference, as `balloonlab.measurement.stages_by_difference` describes.

    With ``guest="kvm"`` the driver's compiled code runs in user mode in a KVM virtual machine made
    of this process: every kick is an exit, RAM is touched through second-level page tables, and
    every ``madvise`` pays for them. To wait it leaves the machine for user space, once more than a
    halt inside KVM takes. Rows have ``source="kvm"``; `balloonlab.measurement.columns` describes
    its checks. A `balloonlab.vcpu.KvmError`, a RuntimeError, says what is missing.

    Examples
    --------
    >>> import balloonlab as bl
    >>> run = bl.measure(memory="8MiB", protocol="pfn", repeats=1, progress=False)
    >>> int(run.frame["n_kicks"].iloc[0])
    7
    """
    case = make_case(**options)
    return run_cases([case], "measure", _spelled(options), out=out, progress=progress)


def compare(
    cases: Iterable[Mapping[str, Any]],
    progress: bool = True,
    out: PathLike | None = None,
    **common: Any,
) -> Run:
    """Measure several cases into one frame; they take turns, as in `sweep`.

    Parameters
    ----------
    cases : iterable of mappings
        Arguments of `measure` in which the cases differ.
    progress, out, **common
        As in `measure`, for all cases.

    Returns
    -------
    Run
        In the order of `cases`; equal ones are measured once. Errors are those of `measure`; what
        cannot be is found before anything is measured.

    Examples
    --------
    >>> both = [{"protocol": "pfn"}, {"protocol": "bitmap-v4"}]
    >>> run = compare(both, memory="64MiB", repeats=1, progress=False)  # doctest: +SKIP
    """
    cases = [cases] if isinstance(cases, Mapping) else list(cases)
    if not all(isinstance(case, Mapping) for case in cases):
        rule = "cases must be a list of dicts of arguments, as in [{'protocol': 'pfn'}]"
        raise TypeError(f"{rule}; got {cases!r}")
    if not cases:
        raise ValueError("cases must hold at least one case, got none")
    given = [{**common, **case} for case in cases]
    made = [make_case(**case) for case in given]
    arguments = {"cases": [_spelled(case) for case in given]}
    return run_cases(made, "compare", arguments, out=out, progress=progress)


@takes_options(lists=True)
def sweep(
    *,
    out: PathLike | None = None,
    seed: int = 0,
    progress: bool = True,
    executor: Any = None,
    **options: Unpack[Options[list[Any] | tuple[Any, ...]]],
) -> Any:
    """Measure every combination of the arguments' values into one frame.

    Each argument takes one value, or a list or tuple of them (page numbers only an array); the
    cases are the product. They take turns as `balloonlab.measurement.runner` describes. A case that
    cannot be (the pattern has not as many pages, the guest does not fit the memory that is free) is
    skipped, one that fails its checks is left out; the others go on.

    With ``out=`` a sweep can be interrupted at any time, with Ctrl-C or worse: the same call goes
    on where it stopped, and tries again what was skipped, failed or damaged.

    Parameters
    ----------
    {options}
    out, progress
        As in `balloonlab.measure`; `balloonlab.load` and `balloonlab.pool` read what is in `out`.
    seed : int
        Of the order in which cases are measured. Page sets do not depend on it: they are
        drawn with ``rng=0``.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Measure on its machines, one case at a time on each; by default in this process. A dask
        worker needs a resource (``dask worker --resources machine=1``), one worker per machine.

    Returns
    -------
    Run
        All finished cases, those of earlier calls too, and in ``skipped`` all without a result.
        With an `executor` a `balloonlab.measurement.fleet.Fleet`: a run for each machine.

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule by itself; `out` holds a run of another machine, of other code
        or other arguments (times of unlike machines are never put together).
    NotImplementedError, RuntimeError
        As `balloonlab.measure`; a case in which QEMU dies fails, as any other.

    Examples
    --------
    >>> import balloonlab as bl
    >>> run = bl.sweep(memory="8MiB", protocol=["pfn", "bitmap-v4"], pattern=["idle", "every:2"],
    ...                repeats=1, progress=False)
    >>> run.frame.groupby("protocol")["n_kicks"].first()
    protocol
    bitmap-v4    1
    pfn          7
    Name: n_kicks, dtype: int64
    >>> run.skipped[["protocol", "pattern", "outcome"]]
        protocol  pattern  outcome
    0        pfn  every:2  skipped
    1  bitmap-v4  every:2  skipped
    """
    check_number("seed", seed, 0)
    axes = {name: values_of(name, options.get(name, row.default)) for name, row in TABLE.items()}
    combined = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    cases = [make_case(**arguments) for arguments in combined]
    arguments: dict[str, Any] = {
        name: [_plain(name, value) for value in values] if TABLE[name].listed else values[0]
        for name, values in axes.items()
    } | {"seed": seed}
    if executor is not None:
        return run_on_fleet(cases, "sweep", executor, out=out, seed=seed, progress=progress)
    return run_cases(cases, "sweep", arguments, out=out, seed=seed, strict=False, progress=progress)


def values_of(name: str, value: Any) -> list[Any]:
    """Return the values of an option in a sweep."""
    values = list(value) if isinstance(value, list | tuple) and TABLE[name].listed else [value]
    if not values:
        raise ValueError(f"{name} must have at least one value, got an empty list")
    if name == "pattern" and any(isinstance(one, int | np.integer) for one in values):
        raise TypeError(
            "pattern must be spellings or an array; a list is one of several patterns: "
            "give page numbers as numpy.array(...)"
        )
    return values


def _spelled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a case such that equal ones read the same in ``meta.json``."""
    return {name: _plain(name, options.get(name, row.default)) for name, row in TABLE.items()}


def _plain(name: str, value: Any) -> Any:
    share = isinstance(value, float | np.floating)
    if name in ("memory", "balloon") and value is not None and not share:
        return parse_pages(value, name) * PAGE_BYTES
    if name == "pattern" and not isinstance(value, str):
        return digest(np.asarray(value, np.uint64).tobytes())
    return json.loads(json.dumps(value, default=lambda number: number.item()))
