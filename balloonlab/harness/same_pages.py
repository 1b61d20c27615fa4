"""Every encoding on the same pages: bytes, kicks, records, ranges, times; the question of 2016."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from .. import wire
from ..freeing.giving_back import GUESTS
from ..freeing.turns import keep
from ..measurement import sweep
from ..measurement.options import PathLike, check_number, names_of
from ..measurement.provenance import describe_machine
from ..measurement.runner import alone
from ..measurement.setups import make_case
from ..measurement.store import check_out
from ..pages import patterns as page_sets
from ..sizes import Size
from ..terminal import Progress
from .counting import REFERENCES, ROARING, Pages, about, can_count, count
from .timing import Work, time_in_turns, works

TABLE, MEASURED = "encodings.csv", "measured"

ORDERS: dict[Literal["list", "sorted"], str] = {"list": "as is", "sorted": "ascending"}
"""How a driver gets the pages: in the order of its allocator, or ascending."""

COLUMNS = ["pattern", "memory_bytes", "order", "protocol", "n_pages", "density", "mean_run_pages"]
COLUMNS += ["n_named", "n_kicks", "wire_bytes", "n_records", "n_ranges", "n_discards"]
COLUMNS += ["encode_ns", "decode_ns"]


def names() -> list[str]:
    """List what is compared: the formats that name each page once, and the references.

    Without the library ``pyroaring``, which is optional, ``roaring`` is not among them.
    """
    told_once = (
        name
        for name in wire.formats()
        if name not in wire.spoken() or wire.get(name).names_each_page_once
    )
    return [*told_once, *filter(can_count, REFERENCES)]


def encodings(
    patterns: str | Iterable[str] = "idle",
    memory: Size | None = None,
    balloon: Size | float | None = None,
    protocols: Iterable[str] = (),
    orders: Iterable[Literal["list", "sorted"]] = tuple(ORDERS),
    guests: Iterable[Literal["thread", "kvm"]] = (),
    repeats: int = 5,
    out: PathLike | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Encode the same pages in every format, and count and time it.

    Encoding and decoding are timed by the driver's and the device's kernels alone, warm, in turns;
    with `guests` whole inflations of touched memory are measured, too, by `balloonlab.sweep`, at a
    device that joins neighbours of a message whatever the format. Nothing of ``sg``, ``reporting``,
    ``hinting`` and ``bound`` is timed, and of plain Python codecs (`balloonlab.wire.register`).

    Parameters
    ----------
    patterns : str or iterable of str
        Spellings as in `balloonlab.measure`: ``random``, ``trace:NAME``.
    memory, balloon : int, str, float, optional
        As in `balloonlab.measure`: the recorded guest's of a trace.
    protocols : iterable of str
        Of `balloonlab.harness.names`; all by default.
    orders : iterable of {'list', 'sorted'}
        In the order of the pattern, and ascending. It shows in ``pfn`` and, where a driver takes
        them off its list, in runs; formats made of a bitmap differ in time alone.
    guests : iterable of {'thread', 'kvm'}
        Who inflates, as in `balloonlab.measure`.
    repeats : int
        Of every time.
    out : path-like, optional
        Folder for ``encodings.csv``, ``meta.json`` and, with `guests`, the run ``measured``.
    progress : bool
        Show progress bars.

    Returns
    -------
    pandas.DataFrame
        A row for each pattern, order and protocol: ``density`` (share of memory in the set),
        ``mean_run_pages``; ``n_named`` (pages that the format names: of ``reporting`` and
        ``hinting`` those of whole blocks alone), ``n_kicks``, ``wire_bytes`` (descriptors of those
        that have nothing else), ``n_records``, ``n_ranges`` (decoded), ``n_discards`` (calls of a
        device that joins neighbours of a message); ``encode_ns`` and ``decode_ns`` of the whole
        set, medians; with `guests` ``lab_ns`` and ``kvm_ns`` of the inflation, medians. NaN where
        there is none. Errors as of `balloonlab.sweep`.

    Examples
    --------
    >>> import balloonlab as bl
    >>> frame = bl.encodings("every:2", "64MiB", "16MiB", ["pfn", "adaptive", "bound"], "list",
    ...                      progress=False)
    >>> frame[["protocol", "wire_bytes"]].to_numpy().tolist()
    [['pfn', 16384], ['adaptive', 1032], ['bound', 1661]]
    """
    if out is not None:
        check_out(out, TABLE)
    check_number("repeats", repeats, 1)
    spellings = [patterns] if isinstance(patterns, str) else list(patterns)
    if not spellings:
        raise ValueError("patterns must have at least one spelling, got none")
    cases = [make_case(pattern=one, memory=memory, balloon=balloon) for one in spellings]
    protocols = _protocols(protocols) if protocols else names()
    orders = names_of("orders", orders, ORDERS)
    inflating: list[str] = names_of("guests", guests, GUESTS) if guests else []
    if inflating and not set(protocols) & set(wire.spoken()):
        raise ValueError(
            f"protocols must have one that a driver speaks with guests={guests!r}, got "
            f"{', '.join(protocols)}"
        )
    meta, rows = describe_machine(), list[dict[str, Any]]()
    with alone(), Progress(len(spellings) * len(orders), progress) as bar:
        for case in cases:
            bar.describe(case.pattern)
            pages = case.pages()
            for order in orders:
                listed = page_sets.ordered(pages, ORDERS[order])
                of = {"pattern": case.pattern, "memory_bytes": case.memory_bytes, "order": order}
                found = _rows(listed, case.memory_pages, order, protocols, repeats)
                rows += [of | row for row in found]
                bar.advance()
    frame = pd.DataFrame(rows)[COLUMNS]
    if inflating:
        inflations = _inflate(frame, inflating, balloon, repeats, out, progress)
        frame = frame.merge(inflations.reset_index(), how="left")
    keep(frame, meta, out, TABLE, patterns=spellings, repeats=repeats)
    return frame


def _protocols(given: Iterable[str]) -> list[str]:
    """Return the protocols that were asked for; each is known and can be counted (ValueError)."""
    here = names()
    chosen = names_of("protocols", given, dict.fromkeys([*here, *REFERENCES]))
    if missing := [name for name in chosen if name not in here]:
        raise ValueError(
            f"protocols has {missing[0]!r}, which needs the library {ROARING}: "
            f"`pip install {ROARING}`, or leave it out"
        )
    return chosen


def _rows(
    pages: Pages, memory_pages: int, order: str, protocols: list[str], repeats: int
) -> Iterator[dict[str, Any]]:
    """Yield a row per protocol for one list of pages."""
    todo: dict[tuple[str, ...], Work] = {}
    for name in protocols:
        if pages.size and (pair := works(name, pages, order)):
            todo[name, "encode_ns"], todo[name, "decode_ns"] = pair
    times, stands = time_in_turns(todo, repeats), about(pages, memory_pages)
    for name in protocols:
        spent = {
            kind: float(np.median(times[name, kind])) if (name, kind) in times else np.nan
            for kind in ("encode_ns", "decode_ns")
        }
        counted = count(name, pages, memory_pages, order)._asdict()
        yield stands | {"protocol": name} | counted | spent


def _inflate(
    frame: pd.DataFrame,
    guests: list[str],
    balloon: Size | float | None,
    repeats: int,
    out: PathLike | None,
    progress: bool,
) -> pd.DataFrame:
    """Measure inflations of all sets; return their medians, a column per source."""
    by = ["pattern", "memory_bytes", "order", "protocol"]
    spoken = [name for name in frame["protocol"].unique() if name in wire.spoken()]
    orders = [ORDERS[name] for name in frame["order"].unique()]
    medians = []
    for number, (pattern, memory_bytes) in enumerate(frame.groupby(by[:2], sort=False).groups):
        run = sweep(
            memory=memory_bytes, balloon=balloon, pattern=pattern, guest=guests, protocol=spoken,
            order=orders, discard="range", repeats=repeats, progress=progress,
            out=None if out is None else Path(out) / MEASURED / str(number),
        )  # fmt: skip
        repeated = run.frame.groupby([*by, "source", "repeat"], sort=False)["time_ns"].sum()
        found = repeated.groupby([*by, "source"]).median().reset_index()
        medians.append(found.pivot_table(index=by, columns="source", values="time_ns"))
    whole = pd.concat(medians).add_suffix("_ns")
    words = {as_is: name for name, as_is in ORDERS.items()}
    return whole.rename(index=words, level="order")
