"""What each host policy takes with the legacy message, by kind of guest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ..host import POLICIES
from ..measurement.estimates import estimate
from ..measurement.ratio import ratio_of
from ..measurement.run import Run
from ..measurement.starts import kind_of, unit_times
from ..measurement.tables import as_frame
from .rungs import starts_of

COLUMNS = [
    *("source", "pattern", "policy", "page_ns", "page_low_ns", "page_high_ns", "page_interval"),
    *("least_ns", "greatest_ns", "gain", "low", "high", "interval"),
]


def policy_times(data: Run | pd.DataFrame) -> pd.DataFrame:
    """Return the time per page of each host policy, by source and pattern.

    Parameters
    ----------
    data : Run or pandas.DataFrame
        With inflations of touched memory by ``pfn``, of the options of `balloonlab.host_policies`.

    Returns
    -------
    pandas.DataFrame
        ``source``, ``pattern``, ``policy``; ``page_ns``, the median per page, with its interval
        ``page_low_ns`` to ``page_high_ns`` and what that is (``page_interval``), and ``least_ns``
        and ``greatest_ns`` of the starts; ``gain`` over a call per page, ``low``, ``high`` and
        ``interval``. Policies that are one and the same on this backing have a
        row each.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> policy_times(load(datasets.path("policies")))["policy"].iloc[0]
    'qemu'
    """
    frame = as_frame(data)
    return pd.DataFrame(_rows(frame[frame["protocol"] == "pfn"]), columns=COLUMNS)


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    if frame.empty:
        return
    times, kind = unit_times(frame), kind_of(frame)
    cases = frame.drop_duplicates("run_id").set_index("run_id")
    for (source, pattern), group in cases.groupby(["source", "pattern"], sort=False):
        found = {}
        for name, (policy, _, _) in POLICIES.items():
            like = group[["discard", "threads", "collect"]] == [
                policy.discard, policy.threads, policy.collect,
            ]  # fmt: skip
            fitting = group[like.all(axis="columns")]
            if len(fitting):
                found[name] = starts_of(times[fitting.index]) / fitting["n_pages"].iloc[0]
        for name, ns in found.items():
            page = estimate([ns], lambda page_ns: page_ns, kind)
            ratio = ratio_of(found["qemu"], ns, kind)
            yield source, pattern, name, *page, ns.min(), ns.max(), *ratio
