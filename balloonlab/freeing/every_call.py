"""Does it free anything? Every call on every backing, tried out on the kernel at hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..host import BACKINGS, VERBS, GuestRam, Policy
from ..host.crew import Crew
from ..host.ram import deferred_huge_pages
from ..kernels import contents
from ..measurement.options import PathLike
from ..measurement.provenance import describe_machine
from ..measurement.resources import check_available
from ..measurement.runner import alone
from ..measurement.stages import WARM_UP
from ..sizes import HUGE_BYTES, PAGE_BYTES, Size, format_size, parse_pages
from ..terminal import Progress
from .turns import check_arguments, keep

TABLE = "frees.csv"
PIECES = (PAGE_BYTES, HUGE_BYTES)
"""What is discarded: every second piece of this size."""

KINDS = [
    (name, thp)
    for thp in (False, True)
    for name, row in BACKINGS.items()
    if not (thp and row.no_thp)
]
_CASE = ["source", "backing", "thp", "verb", "piece_bytes", "memory_bytes"]
_RESULT = [
    *("repeat", "n_pages", "n_calls", "n_failed", "time_ns", "touch_ns", "freed_bytes"),
    *("zero_pages", "old_pages", "other_pages", "mappings_after", "huge_bytes_before"),
    "huge_bytes_after", "deferred_huge_pages",
]  # fmt: skip
COLUMNS = [*_CASE, "reason", *_RESULT]


def frees(
    memory: Size = "16MiB", repeats: int = 3, out: PathLike | None = None, progress: bool = True
) -> pd.DataFrame:
    """Try every call that takes memory away on every backing, and see what it really frees.

    Every second piece of a guest that was touched is discarded, a call each: pieces of 4 KiB, then
    of 2 MiB. Then the guest writes to them again. What the host holds less, what the pages read,
    and what is left of mappings and huge pages is looked at each time; memory outside the pieces
    must be as it was. Some twenty seconds, no root: huge pages that the kernel keeps apart
    (hugetlb) need it, and are left out with the reason.

    Parameters
    ----------
    memory : int or str
        RAM of the guest, whole pieces of 4 MiB.
    repeats : int
        Measured repeats of each combination, after a warm-up.
    out : path-like, optional
        Folder for ``frees.csv`` and ``meta.json``; an earlier table is set aside.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row for each combination and repeat: ``source`` (``lab``), ``backing``, ``thp``,
        ``verb``, ``piece_bytes``, ``memory_bytes``, ``reason`` (why it is not made; empty where it
        is), ``n_pages`` (of 4 KiB, in all pieces), ``n_calls``, ``n_failed``, ``time_ns`` of all
        calls, ``touch_ns`` of the guest's writes to each page afterwards, ``freed_bytes`` (private
        pages or the file's blocks), ``zero_pages``, ``old_pages``, ``other_pages`` (what they
        read), ``mappings_after``, ``huge_bytes_before`` and ``huge_bytes_after``
        (transparent), ``deferred_huge_pages`` (of the machine: broken, but held whole until memory
        is short; what was discarded of them is in ``freed_bytes``). Counts and times are 0 where
        there is a reason.

    Examples
    --------
    >>> import balloonlab as bl
    >>> table = bl.frees("8MiB", repeats=1, progress=False)  # doctest: +SKIP
    >>> table = bl.datasets.stacked("frees", "frees.csv")  # as shipped
    >>> memfd = table.query("backing == 'memfd' and verb == 'dontneed' and not thp")
    >>> memfd["freed_bytes"].unique().tolist()  # the call returns 0 and frees nothing
    [0]
    """
    check_arguments(out, TABLE, repeats)
    memory_pages = parse_pages(memory, "memory")
    if memory_pages == 0 or memory_pages * PAGE_BYTES % (2 * HUGE_BYTES):
        size = format_size(memory_pages * PAGE_BYTES)
        raise ValueError(
            f"memory must be whole pieces of {format_size(2 * HUGE_BYTES)}, got {size}"
        )
    check_available(memory_pages * PAGE_BYTES, True)
    meta, rows = describe_machine(), list[dict[str, Any]]()
    with alone(), Progress(len(KINDS) * (repeats + 1), progress) as bar:
        for backing, thp in KINDS:
            bar.describe(f"{backing}{', huge pages' if thp else ''}")
            rows += _try_backing(backing, thp, memory_pages, repeats, bar)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    keep(frame, meta, out, TABLE, memory_bytes=memory_pages * PAGE_BYTES, repeats=repeats)
    return frame


def _try_backing(
    backing: str, thp: bool, memory_pages: int, repeats: int, bar: Progress
) -> list[dict[str, Any]]:
    """Return the rows of one backing; one row per call that is not made."""
    case = {"source": "lab", "backing": backing, "thp": thp}
    case["memory_bytes"] = memory_pages * PAGE_BYTES
    refused = {"reason": "", **dict.fromkeys(_RESULT, 0)}
    row, ram = BACKINGS[backing], None
    try:
        ram = GuestRam(memory_pages, thp, backing)
    except (MemoryError, ValueError) as error:
        bar.advance(repeats + 1)
        whole = case | refused | {"reason": str(error)}
        return [whole | {"verb": verb, "piece_bytes": 0} for verb in VERBS]
    rows = [
        case | refused | {"verb": verb, "piece_bytes": 0, "reason": reason}
        for verb, reason in row.verbs.items()
        if isinstance(reason, str)
    ]
    rng, made = np.random.default_rng(0), list(product(row.usable, PIECES))
    for number in range(WARM_UP, repeats):
        for verb, piece_bytes in (made[i] for i in rng.permutation(len(made))):
            result = _try(ram, verb, piece_bytes)
            about = {"verb": verb, "piece_bytes": piece_bytes, "reason": "", "repeat": number}
            rows += [case | about | result] if number != WARM_UP else []
        bar.advance()
    return rows


def _try(ram: GuestRam, verb: str, piece_bytes: int) -> dict[str, int]:
    """Discard every second piece twice: for the times, then for what is left of it."""
    n = piece_bytes // PAGE_BYTES
    gone = np.zeros(ram.memory_pages, bool)
    gone.reshape(-1, n)[1::2] = True
    offsets = np.flatnonzero(gone) * PAGE_BYTES
    extents = np.column_stack([offsets[::n], np.full(offsets.size // n, piece_bytes)])
    _touch_anew(ram)
    before, deferred_before = ram.mapped(), deferred_huge_pages()
    held = ram.held_bytes(before)
    found = _discard(ram, verb, extents)
    after, deferred = ram.mapped(), deferred_huge_pages() - deferred_before
    found |= {"freed_bytes": held - ram.held_bytes(after), "mappings_after": after.n_mappings}
    found |= {"huge_bytes_before": before.huge_bytes, "huge_bytes_after": after.huge_bytes}
    found["touch_ns"] = contents.touch_at(ram.memory.ram, offsets, np.zeros(2, np.int64))
    _touch_anew(ram)
    _discard(ram, verb, extents)
    lost = ram.count_lost(gone)
    if lost:
        raise RuntimeError(f"{verb} changed {lost} pages outside of what it was to discard")
    zero, old, other = ram.read_back(gone)
    read = {"zero_pages": zero, "old_pages": old, "other_pages": other}
    return {"n_pages": offsets.size, "deferred_huge_pages": deferred, **found, **read}


def _touch_anew(ram: GuestRam) -> None:
    ram.renew()
    ram.touch()


def _discard(ram: GuestRam, verb: str, extents: npt.NDArray[np.int64]) -> dict[str, int]:
    """Discard extents, a call each; return what came of it."""
    with Crew(Policy("range"), ram.memory, ram.verb(verb), len(extents)) as crew:
        n_calls, n_failed, time_ns = crew.timed_discard(extents, np.zeros(2, np.int64))
    return {"n_calls": n_calls, "n_failed": n_failed, "time_ns": time_ns}


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per combination: what it freed, what pages read then, and times per page.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `frees` returns; that of several runs has several ``start``.

    Returns
    -------
    pandas.DataFrame
        ``backing``, ``thp``, ``verb``, ``piece_bytes``; ``freed`` (share of the pages that are back
        at once, or NaN), ``later`` (share that is when the host is short of memory);
        ``reads`` (``zero``, ``old``, ``file``, or empty where every call failed); ``page_ns`` and
        ``touch_ns`` per 4 KiB page, with ``least`` and ``greatest`` of the repeats;
        ``mappings_after``, ``huge_bytes_before``, ``huge_bytes_after``; ``reason`` (why there is
        nothing of all this).
    """
    by_case = dict(list(frame.groupby(_BY)))
    order = product(KINDS, VERBS, (*PIECES, 0))
    keys = [(*kind, verb, piece_bytes) for kind, verb, piece_bytes in order]
    rows = [
        dict(zip(_BY, key, strict=True)) | _summarized(by_case[key])
        for key in keys
        if key in by_case
    ]
    return pd.DataFrame(rows)


_BY = ["backing", "thp", "verb", "piece_bytes"]


def _summarized(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    if first["reason"]:
        return {"freed": np.nan, "reads": "", "reason": first["reason"]}
    failed = bool((rows["n_failed"] == rows["n_calls"]).all())
    names = ("zero_pages", "old_pages", "other_pages")
    counts = dict(zip(("zero", "old", "file"), rows[list(names)].sum(), strict=True))
    gone = float(rows["freed_bytes"].sum() / (rows["n_pages"].sum() * PAGE_BYTES))
    deferred = (rows["deferred_huge_pages"] * HUGE_BYTES / rows["memory_bytes"]).median()
    later = gone * min(1.0, float(deferred)) if first["thp"] else 0.0
    result: dict[str, Any] = {
        "freed": gone - later,
        "later": later,
        "reads": "" if failed else max(counts, key=lambda name: counts[name]),
        "reason": "every call fails" if failed else "",
    }
    for name, column in (("page", "time_ns"), ("touch", "touch_ns")):
        ns = rows[column] / rows["n_pages"]
        result[f"{name}_ns"] = float(ns.median())
        result |= {f"{name}_least_ns": ns.min(), f"{name}_greatest_ns": ns.max()}
    for name in ("mappings_after", "huge_bytes_before", "huge_bytes_after"):
        result[name] = int(rows[name].median())
    return result
