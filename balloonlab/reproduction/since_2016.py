"""From 4126 and 590 ms to today: the times of 2016 taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..measurement.estimates import Estimate
from .samples import STATES, STEPS, Cases, Sample, estimate, paper

PARTS = {
    "pfn": {
        **{"allocate": "linux", "notify": "kvm", "rest of send": "kvm"},
        **{"translate": "qemu", "discard": "kvm", "unexplained": "kvm"},
    },
    "bitmap-v4": {
        **{"allocate": "linux", "notify": "kvm", "rest of send": "kvm"},
        **{"translate": "kvm", "discard": "kvm", "unexplained": "kvm"},
    },
}
"""Who measured each step of today on the real thing; no QEMU translates bitmaps."""

NOTES = {
    ("allocate", "linux"): "Linux's own driver takes, lists and writes a page (its pfn case)",
    ("notify", "kvm"): "kick, VM exit, both wake-ups",
    ("rest of send", "kvm"): "pack and decode by balloonlab's driver and device",
    ("translate", "qemu"): "an unmodified QEMU's look-ups, by difference",
    ("translate", "kvm"): "balloonlab's look-ups, a few by range",
    ("discard", "kvm"): "madvise with second-level page tables and MMU notifiers",
    ("unexplained", "kvm"): "of the wall time in no stage",
}

STAGES = {
    "send": ("notify", "rest of send"),
    "translate": ("translate",),
    "discard": ("discard",),
    "rest": ("notify", "rest of send", "translate", "discard"),
    "total": ("notify", "rest of send", "translate", "discard"),
}
"""Steps of the published stages that have a time of today, less allocation."""

PUBLISHED_NOTES = {
    "allocate": "published for pfn; the patch left it alone",
    "rest": "total less allocate: send, translate, discard were not published apart",
    "unexplained": "the published shares do not sum to 100 %",
}

COLUMNS = [
    *("account", "protocol", "memory", "step", "time_ms", "low_ms", "high_ms"),
    *("page_ns", "low_ns", "high_ns", "interval", "source", "data", "note"),
]


def since_2016(frames: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Take the times of 2016 apart, step by step, beside what each step takes today.

    Parameters
    ----------
    frames : mapping of str to Run or pandas.DataFrame, optional
        By source (``lab``, ``kvm``, ``linux``, ``qemu``), of `balloonlab.reproduce`; the runs that
        come with balloonlab where a source is not given.

    Returns
    -------
    pandas.DataFrame
        One row for each ``account``, ``protocol`` (``pfn``, ``bitmap-v4``), ``memory`` and
        ``step``. Within each the steps sum to the last one, ``total``. Accounts:

        - ``published``: 2016's own, of an ``idle`` guest. Of ``bitmap-v4`` only the total is
          known, and that the patch left allocation alone: all else is ``rest``.
        - ``taken apart``: 2016's total; allocation as published, every other step as measured
          today on ``untouched`` or ``touched`` memory, and what is left over as ``unexplained``.
          That is negative where today's steps take more than all of 2016's.
        - ``left over``: what is unexplained, by the stages that were published: each of 2016's less
          its steps of today. Stages that take more today have a minus.
        - ``today``: a sum of parts that were measured apart; nobody measured that total.

        ``time_ms`` and ``page_ns`` (per 4 KiB page) with their interval's ends; ``interval``
        says what it is: ``published``, ``95 %`` over starts, or ``range``. ``source`` and ``data``
        are of all that a row is computed from, ``note`` says what it covers.

    Raises
    ------
    TypeError, ValueError
        What is no frame, of another source, without the paper's sizes, or with several cases
        where one is wanted.

    Examples
    --------
    >>> frame = since_2016()
    >>> frame.query("account == 'published' and step == 'total'")["time_ms"].round().tolist()
    [4126.0, 590.0]
    """
    cases = Cases(frames)
    rows: list[list[Any]] = []
    for protocol in PARTS:
        rows += _published_rows(protocol)
        for memory in STATES:
            rows += _measured_rows("taken apart", protocol, memory, cases)
            rows += _left_rows(protocol, memory, cases)
            rows += _measured_rows("today", protocol, memory, cases)
    return pd.DataFrame(rows, columns=COLUMNS)


def _published_rows(protocol: str) -> Iterator[list[Any]]:
    known = paper(protocol)
    for step, ns in (known.stages_ns | {"total": known.total_ns}).items():
        noted = step == "unexplained" or "rest" in known.stages_ns
        note = PUBLISHED_NOTES.get(step, "") if noted else ""
        about = ["paper", "published.csv", note]
        yield _row(["published", protocol, "idle", step], _constant(ns), known.n_pages, about)


def _measured_rows(account: str, protocol: str, memory: str, cases: Cases) -> Iterator[list[Any]]:
    """Yield the steps of today; taken apart, with 2016's allocation, total and what is left."""
    known = paper(protocol)
    apart = account == "taken apart"
    parts = {
        step: cases(source, protocol if source == "kvm" else "pfn", memory)
        for step, source in PARTS[protocol].items()
        if not (apart and step in ("allocate", "unexplained"))
    }
    together, everything = _sum_of(parts)
    sources = ", ".join(dict.fromkeys(one.source for one in together))
    data = ", ".join(dict.fromkeys(one.data for one in together))

    def row(step: str, found: Estimate, *about: str) -> list[Any]:
        return _row([account, protocol, memory, step], found, known.n_pages, about)

    if apart:
        note = PUBLISHED_NOTES["allocate"] if protocol != "pfn" else ""
        yield row("allocate", _constant(known.allocate_ns), "paper", "published.csv", note)
    for step, one in parts.items():
        at = list(STEPS).index(step)
        found = estimate([one], lambda ns, at=at: ns[..., at])
        yield row(step, found, one.source, one.data, NOTES[step, one.source])
    if apart:
        left = known.total_ns - known.allocate_ns
        found = estimate(together, lambda *ns: left - everything(*ns))
        note = "2016's total less all other steps"
        yield row(
            "unexplained", found, f"paper, {sources}", f"published.csv, {data}",
            f"{note}: they take more" if found.value < 0 else note,
        )  # fmt: skip
        yield row("total", _constant(known.total_ns), "paper", "published.csv", "as published")
    else:
        note = "sum of parts measured apart"
        yield row("total", estimate(together, everything), sources, data, note)


def _left_rows(protocol: str, memory: str, cases: Cases) -> Iterator[list[Any]]:
    """Yield what each published stage but allocation took more in 2016 than today."""
    known = paper(protocol)
    stages = {name: ns for name, ns in known.stages_ns.items() if name != "allocate"}
    for stage, ns in (stages | {"total": sum(stages.values())}).items():
        parts = {
            step: cases(PARTS[protocol][step], protocol, memory) for step in STAGES.get(stage, ())
        }
        together, everything = _sum_of(parts)
        found = estimate(together, lambda *now, ns=ns, of=everything: ns - of(*now))
        sources = ["paper", *dict.fromkeys(one.source for one in together)]
        data = ["published.csv", *dict.fromkeys(one.data for one in together)]
        note = "2016 less today" if together else PUBLISHED_NOTES["unexplained"]
        about = [", ".join(sources), ", ".join(data), note]
        yield _row(["left over", protocol, memory, stage], found, known.n_pages, about)


def _sum_of(parts: Mapping[str, Sample]) -> tuple[list[Sample], Callable[..., Any]]:
    """Return the cases that steps are of, each once, and the function that sums their steps."""
    by_case: dict[tuple[str, ...], tuple[Sample, list[int]]] = {}
    for step, one in parts.items():
        entry = by_case.setdefault((one.source, one.protocol, one.memory), (one, []))
        entry[1].append(list(STEPS).index(step))
    columns = [at for _, at in by_case.values()]

    def everything(*ns: Any) -> Any:
        return sum(one[..., at].sum(axis=-1) for one, at in zip(ns, columns, strict=True))

    return [one for one, _ in by_case.values()], everything


def _constant(ns: float) -> Estimate:
    return estimate([], lambda: ns)


def _row(key: list[str], found: Estimate, n_pages: int, about: Any) -> list[Any]:
    ns = np.array(found[:3])
    return [*key, *(ns * n_pages / 1e6), *ns, found.interval, *about]
