"""Sweeps: the product of lists of arguments, measured so that an end at any moment costs little."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..host import GuestRam
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..qemu.protocols import PAGEBLOCK_ORDER
from ..sizes import PAGE_BYTES, Size, parse_pages
from ..terminal import Progress
from .api import Run
from .case import DEFAULT_PROTOCOLS, Case, Pattern, check_number, default_memory
from .hosts import describe_hosts, operate_once
from .provenance import describe_machine
from .resources import check_available
from .runner import WARM_UP, Repeat, Trial, check_facilities, shared_ram, take_turn
from .stages import COLUMNS, SKIPPED_COLUMNS, check_columns, describe, empty, stack
from .store import CHECKS, SKIPPED, Store, load

Rows: TypeAlias = dict[str, Any]


def sweep(
    memory: Size | Sequence[Size] | None = None,
    balloon: Size | float | Sequence[Size | float | None] | None = None,
    protocol: str | Sequence[str] | None = None,
    pattern: Pattern | Sequence[Pattern] = "idle",
    order: str | Sequence[str] = "as is",
    operation: str | Sequence[str] = "inflate",
    touched: bool | Sequence[bool] = True,
    thp: bool | Sequence[bool] = False,
    discard: str | Sequence[str | None] | None = None,
    wait: str | Sequence[str] = "block",
    bitmaps: int | Sequence[int] = MAX_BITMAPS,
    steps: int | Sequence[int] = 1,
    block_order: int | Sequence[int] = PAGEBLOCK_ORDER,
    host: str = "lab",
    repeats: int = 5,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Run:
    """Measure every combination of the arguments' values into one frame.

    Each argument takes one value, or a list or tuple of them; the cases are the product. A case
    that cannot be (the pattern has not as many pages, the guest does not fit the memory
    that is free) is skipped, one that fails its checks is left out, and both are listed
    with the reason; the others go on.

    With ``out=`` each repeat is on disk before the next one starts. Interrupt the sweep when you
    like, with Ctrl-C or worse, and repeat the same call: it goes on where it stopped, and tries
    again what was skipped or failed. What is finished is only read.

    Parameters
    ----------
    memory, protocol, operation, touched, thp, discard, wait, bitmaps, steps, block_order
        As in `balloonlab.measure`, or lists of it. ``discard=None`` stands for the default
        of each protocol.
    balloon : int, str or float, or a list of them, optional
        Sizes as in `balloonlab.measure`; a float is a share of the memory, above 0 and below 1,
        rounded down to whole pages. By default 7/8 of the memory, or the size of a trace or an
        array.
    pattern, order : str or array-like, or a list of them
        As in `balloonlab.measure`. Page numbers must come as an array, since a list is
        one of patterns, and only one array at a time: two would have the same name in the frame.
    host : {"lab", "qemu"}
        As in `balloonlab.measure`; of all cases.
    repeats : int
        Measured repeats of each case, after a warm-up.
    out : path-like, optional
        Folder for ``timings.csv``, ``checks.csv``, ``skipped.csv`` and ``meta.json``; see
        `balloonlab.load` and `balloonlab.pool`. Nothing is written without.
    seed : int
        Of the order in which cases are measured. Page sets do not depend on it: they are
        drawn with ``rng=0``.
    progress : bool
        Show a progress bar with the time left, as `balloonlab.measure` does.

    Returns
    -------
    Run
        ``frame`` and ``checks`` hold all finished cases, those of earlier calls too; a case
        has a ``run_id``. ``skipped`` has a row for each case without a result.

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule by itself; `out` holds a run of another machine, of other code
        or other arguments (times of unlike machines are never put together).
    NotImplementedError
        The platform lacks what measuring needs; the message lists it.
    balloonlab.qemu.QemuError
        QEMU is missing or too old. A case in which it dies fails, as any other.
    KeyboardInterrupt
        Ctrl-C; everything finished is in `out`.

    Notes
    -----
    A machine drifts, so the order of cases is shuffled: first the kinds of memory (size, huge
    pages, touched or not), each of which is mapped once, since the first touch of memory takes
    five times as long as later ones; on each kind the cases take turns, one repeat of every case a
    round, in another order each round. Cases with the same pages are neighbours in a
    round: page sets are made when their turn comes, and one is held at a time. A case is warmed
    up right before its first repeat, and again when the sweep goes on with it.

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
    >>> run.skipped[["protocol", "pattern", "outcome"]].sort_values("protocol", ignore_index=True)
        protocol  pattern  outcome
    0  bitmap-v4  every:2  skipped
    1        pfn  every:2  skipped
    >>> print(run.skipped["reason"].iloc[0])
    balloon must be at most 4 MiB (1024 pages) with pattern every:2 and memory='8MiB', got '7MiB'...

    A long one, which survives; ``bl.totals`` gives a line a case:

    >>> run = bl.sweep(memory=["1GiB", "2GiB", "4GiB"], balloon=[0.25, 0.5],
    ...                pattern=["idle", "random", "aged"], protocol=["pfn", "bitmap-v4"],
    ...                touched=[True, False], out="sizes")            # doctest: +SKIP
    >>> bl.totals(run.frame)                                      # doctest: +SKIP
    """
    check_number("seed", seed, 0)
    axes = {
        "memory": _values(memory),
        "balloon": _values(balloon),
        "protocol": _values(DEFAULT_PROTOCOLS.get(host) if protocol is None else protocol),
        "pattern": _values(pattern),
        "order": _values(order),
        "operation": _values(operation),
        "touched": _values(touched),
        "thp": _values(thp),
        "discard": _values(discard),
        "wait": _values(wait),
        "bitmaps": _values(bitmaps),
        "steps": _values(steps),
        "block_order": _values(block_order),
    }
    cases = _plan(axes, host, repeats)
    check_facilities(host)
    machine = describe_machine() | describe_hosts([host])
    meta = machine | {
        "command": "sweep",
        "arguments": _spelled(axes) | {"host": host, "repeats": repeats, "seed": seed},
        "sweep_id": uuid.uuid4().hex,
        "sessions": [machine],
        "finished": False,
    }
    if out is None:
        nothing = Run(empty(COLUMNS), meta, empty(check_columns([host])))
        return _measure(cases, seed, nothing, None, progress)
    store = Store(out)
    with store.locked():
        return _measure(cases, seed, store.resume(meta), store, progress)


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plan(axes: dict[str, list[Any]], host: str, repeats: int) -> list[Case]:
    """List the cases of the grid, equal ones once; no pages are made."""
    for name, values in axes.items():
        if not values:
            raise ValueError(f"{name} must have at least one value, got an empty list")
    n_arrays = sum(not isinstance(value, str) for value in axes["pattern"])
    if any(isinstance(value, int | np.integer) for value in axes["pattern"]):
        raise TypeError(
            "pattern must be spellings or an array; a list is one of several patterns: "
            "give page numbers as numpy.array(...)"
        )
    if n_arrays > 1:
        raise ValueError(
            f"pattern must have at most one array of page numbers, got {n_arrays}, which the "
            "frame could not tell apart: make a sweep of each"
        )
    cases = []
    for combination in product(*axes.values()):
        arguments = dict(zip(axes, combination, strict=True))
        balloon = arguments.pop("balloon")
        if isinstance(balloon, float):
            memory = arguments["memory"]
            fitting = default_memory(arguments["pattern"]) if memory is None else memory
            balloon = _share(balloon, fitting)
        cases.append(Case.plan(**arguments, balloon=balloon, host=host, repeats=repeats))
    return list(dict.fromkeys(cases))


def _share(share: float, memory: Size) -> int:
    if not 0 < share < 1:
        raise ValueError(f"balloon must be above 0 and below 1 as a share of memory, got {share!r}")
    return int(parse_pages(memory, "memory") * share) * PAGE_BYTES


def _spelled(axes: dict[str, list[Any]]) -> Rows:
    """Write the arguments such that equal sweeps read the same, in meta.json."""

    def n_bytes(size: Any, name: str) -> Any:
        literal = size is None or isinstance(size, float)
        return size if literal else parse_pages(size, name) * PAGE_BYTES

    spelled = {
        **axes,
        "memory": [n_bytes(size, "memory") for size in axes["memory"]],
        "balloon": [n_bytes(size, "balloon") for size in axes["balloon"]],
    }
    spelled["pattern"] = [
        value if isinstance(value, str) else _digest(np.asarray(value, np.uint64).tobytes())
        for value in axes["pattern"]
    ]
    plain: Rows = json.loads(json.dumps(spelled, default=lambda number: number.item()))
    return plain


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=6).hexdigest()


def _run_id(case: Case, sweep_id: str) -> str:
    """Name a case of a sweep, the same in every session."""
    unnamed = [case.bitmaps, case.block_order]  # not in the frame
    return _digest(json.dumps([sweep_id, describe(case, ""), *unnamed]).encode())


def _measure(cases: list[Case], seed: int, run: Run, store: Store | None, show: bool) -> Run:
    """Measure what is missing of a run; each repeat and each skipped case is on disk at once."""
    ids = {case: _run_id(case, run.meta["sweep_id"]) for case in cases}
    done = set(zip(run.checks["run_id"], run.checks["repeat"], strict=True))
    missing = {
        case: [n for n in range(case.repeats) if (ids[case], n) not in done] for case in cases
    }
    missing = {case: [WARM_UP, *numbers] for case, numbers in missing.items() if numbers}
    frames, checks, skipped = [run.frame], [run.checks], [run.skipped]
    with Progress(sum(map(len, missing.values())), show) as bar:
        for outcome in _outcomes(missing, ids, np.random.default_rng(seed), bar):
            if isinstance(outcome, Repeat):
                frames.append(outcome.frame)
                checks.append(pd.DataFrame([outcome.check], columns=run.checks.columns))
                if store:
                    store.append(frames[-1])
                    store.append(checks[-1], CHECKS)
            else:
                skipped.append(pd.DataFrame([outcome], columns=SKIPPED_COLUMNS))
                if store:
                    store.write(stack(skipped), SKIPPED)
    run.meta["finished"] = True
    if store:
        store.write_meta(run.meta)
        return load(store.folder)
    return Run(stack(frames), run.meta, stack(checks), stack(skipped)).measured()


def _outcomes(
    missing: dict[Case, list[int]], ids: dict[Case, str], rng: np.random.Generator, bar: Progress
) -> Iterator[Repeat | Rows]:
    """Measure the missing repeats, one kind of memory after the other; see `sweep`."""
    for kind in _shuffled_groups(missing, "memory_key", rng):
        try:
            check_available(kind[0].memory_bytes, kind[0].touched)
            ram = shared_ram(kind[0])
        except (MemoryError, ValueError) as error:
            for case in kind:
                yield _left_out(case, ids[case], error)
                bar.advance(len(missing[case]))
            continue
        yield from _take_turns({case: missing[case] for case in kind}, ids, ram, rng, bar)
        del ram


def _take_turns(
    missing: dict[Case, list[int]],
    ids: dict[Case, str],
    ram: GuestRam | None,
    rng: np.random.Generator,
    bar: Progress,
) -> Iterator[Repeat | Rows]:
    """Make round after round of cases on one kind of memory, each warmed up before its first."""
    left = {case: list(numbers) for case, numbers in missing.items()}
    for number in range(max(case.repeats for case in left)):
        for neighbours in _shuffled_groups(left, "pages_key", rng):
            start = trial = None  # lets go of a page set before the next one is made
            for case in neighbours:
                if number not in left[case]:
                    continue
                try:
                    trial = Trial(case.ready(start), operate_once)
                except (MemoryError, ValueError) as error:
                    yield _left_out(case, ids[case], error)
                    bar.advance(len(left.pop(case)))
                    continue
                start = trial.case.start
                try:
                    if left[case][0] == WARM_UP:
                        take_turn(trial, ram, ids[case], left[case].pop(0), bar)
                    repeat = take_turn(trial, ram, ids[case], number, bar)
                except (MemoryError, RuntimeError) as error:
                    yield _left_out(case, ids[case], error)
                    bar.advance(len(left.pop(case)))
                    continue
                left[case].remove(number)
                yield repeat


def _shuffled_groups(cases: Iterable[Case], key: str, rng: np.random.Generator) -> list[list[Case]]:
    """Group cases by a property; groups and the cases in each come in random order."""
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        groups.setdefault(getattr(case, key), []).append(case)
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in groups.values()]
    return [shuffled[i] for i in rng.permutation(len(shuffled))]


def _left_out(case: Case, run_id: str, error: Exception) -> Rows:
    return {
        **describe(case, run_id),
        "bitmaps": case.bitmaps,
        "outcome": "failed" if isinstance(error, RuntimeError) else "skipped",
        "reason": str(error) or type(error).__name__,
    }
