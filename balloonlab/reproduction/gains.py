"""Why the gain of today is another than that of 2016: by what allocation takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .samples import STATES, STEPS, Cases, estimate, paper
from .since_2016 import PARTS

COLUMNS = [
    *("source", "allocation", "memory", "pfn_ms", "bitmap_ms"),
    *("gain", "low", "high", "interval", "data"),
]


def gains(frames: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Say why ``bitmap-v4`` gains another factor than in 2016: by what allocation takes.

    Parameters
    ----------
    frames : mapping of str to Run or pandas.DataFrame, optional
        As for `since_2016`.

    Returns
    -------
    pandas.DataFrame
        First the ``paper``'s own gain. Then for each ``source`` (``lab``, ``kvm``), ``allocation``
        and ``memory`` the times of ``pfn`` and ``bitmap-v4`` in ms and their ratio, ``gain``, with
        its interval. The ``allocation`` is the source's ``own``, which takes no pages of a kernel,
        or in its place that of ``linux``, or of the ``paper``; all else is the source's.

    Examples
    --------
    >>> gains()["gain"].round(1).tolist()[0]
    7.0
    """
    cases = Cases(frames)
    old, new = (paper(protocol) for protocol in PARTS)
    ms = (one.total_ns * one.n_pages / 1e6 for one in (old, new))
    own = estimate([], lambda: old.total_ns / new.total_ns)
    rows = [["paper", "own", "idle", *ms, *own, "published.csv"]]
    for source in ("lab", "kvm"):
        for allocation in ("own", "linux", "paper"):
            for memory in STATES:
                rows.append([source, allocation, memory, *_gain(source, allocation, memory, cases)])
    return pd.DataFrame(rows, columns=COLUMNS)


def _gain(source: str, allocation: str, memory: str, cases: Cases) -> list[Any]:
    """Return both times in ms, their ratio with its interval, and the data they are of."""
    allocate = list(STEPS).index("allocate")
    known, own = paper("pfn"), [cases(source, protocol, memory) for protocol in PARTS]
    # A start's total first, then the median over starts: as the headline has it.
    samples = [one.summed(leave_out=None if allocation == "own" else allocate) for one in own]
    if allocation == "linux":
        samples.append(cases("linux", "pfn", memory))
    instead_ns = known.allocate_ns if allocation == "paper" else 0.0

    def times_ns(*ns: Any) -> tuple[Any, Any]:
        more = ns[2][..., allocate] if allocation == "linux" else instead_ns
        return ns[0][..., 0] + more, ns[1][..., 0] + more

    def gain(*ns: Any) -> Any:
        old, new = times_ns(*ns)
        return old / new

    medians = times_ns(*(np.median(one.ns, axis=0) for one in samples))
    ms = [float(ns) * known.n_pages / 1e6 for ns in medians]
    data = ", ".join(dict.fromkeys(one.data for one in samples))
    return [*ms, *estimate(samples, gain), data + ", published.csv" * (allocation == "paper")]
