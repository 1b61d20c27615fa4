"""``balloonlab kernels``: the kernels against memory bandwidth and their best peers.

All contenders of a task take turns within one run, so that a drifting machine
is fair to each; ratios are medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..harness.same_pages import names
from ..harness.timing import time_in_turns, works
from ..kernels.bitmap import read_once
from ..measurement.resources import available_bytes
from ..pages import patterns
from ..sizes import GIB, PAGE_BYTES, parse_size
from ..terminal import Progress

Contenders = dict[str, Callable[[], object]]
HALF_FULL_WORDS = 8 * GIB // PAGE_BYTES // 64
IDLE_TASK = "encode 7 of 8 GiB, idle"
LARGE_TASKS = {size: f"encode {size}, idle" for size in ("33GiB", "100GiB", "1TiB")}
"""Guests beyond the 32 GiB that the seed's bitmaps hold at a time."""
FORMAT_SETS: dict[str, Callable[..., npt.NDArray[np.uint64]]] = {
    "contiguous": patterns.idle,
    "random half": patterns.random,
}
FORMAT_WORKS = ("encode", "decode")
FORMAT_TASKS = {(work, pages): f"{work}, {pages}" for pages in FORMAT_SETS for work in FORMAT_WORKS}
"""Every format on 2 M pages of 16 GiB."""
READ = "read the PFNs once"
PEERS = {"pyroaring": "pyroaring", "bitarray": "bitarray.util"}


class Task(NamedTuple):
    """Something to be timed by several contenders, the first being the yardstick."""

    name: str
    unit: str
    n: int
    rounds: int
    contenders: Contenders


def time_kernels(large: bool = False, progress: bool = True) -> pd.DataFrame:
    """Time the kernels against memory bandwidth and their best peers.

    Parameters
    ----------
    large : bool
        Also encode guests of `LARGE_TASKS`, as far as their page numbers fit the available
        memory: 32 bytes per page, up to 9 GB.
    progress : bool
        Show a progress bar; it stands still while contenders are timed.

    Returns
    -------
    pandas.DataFrame
        One row for each task and contender: ``task``, ``contender``, ``median_ms``,
        ``ns_per_item``, ``item``, ``ratio`` to the task's first contender.
    """
    makers = [*_SMALL]
    if large:
        makers += [partial(_large, size) for size in LARGE_TASKS]
    rows = []
    with Progress(len(makers), progress) as bar:
        bar.describe("kernels against peers")
        for make in makers:
            if task := make():
                bar.describe(task.name)
                rows.append(rows_of(task))
            bar.advance()
    return pd.concat(rows, ignore_index=True)


def missing_peers() -> list[str]:
    """Return the names of peer libraries that are not installed and so are left out."""
    return [name for name, module in PEERS.items() if _peer(module) is None]


def _peer(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        return None


def rows_of(task: Task) -> pd.DataFrame:
    """Run the contenders in turns and return their medians, one row per contender."""
    times = time_in_turns(task.contenders, task.rounds)
    yardstick = np.array(next(iter(times.values())))
    return pd.DataFrame(
        {
            "task": task.name,
            "contender": name,
            "median_ms": np.median(spent) / 1e6,
            "ns_per_item": np.median(spent) / task.n,
            "item": task.unit,
            "ratio": np.median(np.array(spent) / yardstick),
        }
        for name, spent in times.items()
    )


def _encoding(name: str, pfns: npt.NDArray[np.uint64], rounds: int) -> Task:
    return Task(name, "page", pfns.size, rounds, _encoders(pfns))


def _formats(work: str, pages: str) -> Task:
    """Return the task of every format's kernels, in the order of a driver's list."""
    pfns = FORMAT_SETS[pages]("16GiB", "8GiB")
    return Task(FORMAT_TASKS[work, pages], "page", pfns.size, 5, _formats_on(pfns, work))


def _formats_on(pfns: npt.NDArray[np.uint64], work: str) -> Contenders:
    """Return the kernels of every format that do the work, behind one read of the pages."""
    number, contenders = FORMAT_WORKS.index(work), Contenders({READ: lambda: read_once(pfns)})
    for name in names():
        if pair := works(name, pfns, "list"):
            contenders[name] = pair[number]
    return contenders


def _half_full() -> Task:
    words = np.random.default_rng(0).integers(0, 2**64, HALF_FULL_WORDS, dtype=np.uint64)
    n_runs = wire.find_runs(words).size
    return Task("runs of a half-full bitmap", "run", n_runs, 11, _run_finders(words))


def _large(size: str) -> Task | None:
    """Return the task of a large guest; None where its page numbers do not fit."""
    n_pages = (parse_size(size) - GIB) // PAGE_BYTES  # a guest keeps something
    if available_bytes() < 4 * n_pages * 8:
        return None
    pfns = patterns.idle(size, n_pages * PAGE_BYTES)
    return Task(LARGE_TASKS[size], "page", n_pages, 5, _ours(pfns))


_SMALL: tuple[Callable[[], Task | None], ...] = (
    lambda: _encoding(IDLE_TASK, patterns.idle("8GiB", "7GiB"), 31),
    lambda: _encoding("encode 4 of 8 GiB, random", patterns.random("8GiB", "4GiB"), 11),
    _half_full,
    *(partial(_formats, *one) for one in FORMAT_TASKS),
)
"""Each makes its data when its turn comes: they are gone before those of the next are made."""


def _ours(pfns: npt.NDArray[np.uint64]) -> Contenders:
    return {
        READ: lambda: read_once(pfns),
        "balloonlab": lambda: wire.encode(pfns, "bitmap-v4"),
    }


def _encoders(pfns: npt.NDArray[np.uint64]) -> Contenders:
    """Return ways to turn page numbers into a compact message; peers stop at the bitmap."""
    span = int(pfns.max()) + 1

    def with_numpy() -> bytes:
        flags = np.zeros(span, bool)
        flags[pfns] = True
        return np.packbits(flags, bitorder="little").tobytes()

    contenders = _ours(pfns) | {"numpy": with_numpy}
    if bits := _peer("bitarray"):

        def with_bitarray() -> bytes:
            flags = np.zeros(span, np.uint8)
            flags[pfns] = 1
            packed = bits.bitarray(endian="little")
            packed.pack(flags)
            return bytes(packed.tobytes())

        contenders["bitarray"] = with_bitarray
    if roaring := _peer("pyroaring"):
        narrow = pfns.astype(np.uint32)

        def with_pyroaring() -> bytes:
            bitmap = roaring.BitMap(narrow)
            bitmap.run_optimize()
            return bytes(bitmap.serialize())

        contenders["pyroaring"] = with_pyroaring
    return contenders


def _run_finders(words: npt.NDArray[np.uint64]) -> Contenders:
    """Return ways to list the runs of a bitmap; pyroaring has none."""
    out = np.zeros(wire.find_runs(words).size + wire.SPARE_RUNS, wire.RANGE)

    def with_numpy() -> npt.NDArray[np.int64]:
        flags = np.unpackbits(words.view(np.uint8), bitorder="little")
        return np.flatnonzero(np.diff(flags, prepend=0, append=0))

    contenders: Contenders = {
        "read the bitmap once": lambda: read_once(words),
        "balloonlab": lambda: wire.find_runs(words),
        "balloonlab, out= reused": lambda: wire.find_runs(words, out=out),
        "numpy": with_numpy,
    }
    bits, util = _peer("bitarray"), _peer("bitarray.util")
    if bits and util:
        packed = bits.bitarray(endian="little")
        packed.frombytes(words.tobytes())
        contenders["bitarray"] = lambda: [end for end in util.intervals(packed) if end[0]]
    return contenders
