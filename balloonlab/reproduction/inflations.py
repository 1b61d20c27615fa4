"""Whole inflations on one scale: what was published since 2016, beside what is measured today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..datasets import published, published_rates
from ..sizes import GIB, PAGE_BYTES
from .samples import FOLDERS, STATES, Cases, estimate

BULK = {"lab": "bitmap-v4", "kvm": "bitmap-v4", "linux": "hinting", "qemu": "reporting"}
"""What replaces ``pfn`` at each source."""

RATES = {"untouched": "reclaim_untouched_gib_per_s", "touched": "reclaim_gib_per_s"}

COLUMNS = [
    *("source", "system", "memory", "page_ns", "low_ns", "high_ns"),
    *("gib_per_s", "interval", "data", "note", "reference"),
]


def inflations(frames: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return whole inflations per page: the series of 2016 and 2017, HyperAlloc's, and today's.

    Parameters
    ----------
    frames : mapping of str to Run or pandas.DataFrame, optional
        As for `balloonlab.reproduction.since_2016`.

    Returns
    -------
    pandas.DataFrame
        One row for each ``system`` (a protocol, or whose system it is) and ``memory`` (``idle``,
        ``untouched`` or ``touched``): ``page_ns`` per 4 KiB page with its interval's ends, and
        ``gib_per_s``. Rates are as published: those of HyperAlloc's artifact read 11 % high, as
        its ``note`` says. ``interval`` is ``published``, ``95 %`` over starts, or ``range``.

    Raises
    ------
    TypeError, ValueError
        As of `balloonlab.reproduction.since_2016`.

    Examples
    --------
    >>> inflations().set_index("system")["gib_per_s"].round(1)["sg"]
    np.float64(14.3)
    """
    rows = [*_of_the_series(), *_of_hyperalloc(), *_of_today(Cases(frames))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rate(page_ns: float) -> float:
    return PAGE_BYTES / GIB / (page_ns / 1e9)


def _of_the_series() -> Iterator[list[Any]]:
    for system, rows in published().groupby("protocol", sort=False):
        first = rows.iloc[0]
        ns = float(rows["time_ms"].sum()) * 1e6 / (first["balloon_bytes"] / PAGE_BYTES)
        note = "" if len(rows) > 1 else first["note"]
        about = ["published", "published.csv", note, first["reference"]]
        yield ["paper", system, "idle", ns, ns, ns, _rate(ns), *about]


def _of_hyperalloc() -> Iterator[list[Any]]:
    for row in published_rates().to_dict("records"):
        for memory, column in RATES.items():
            ns = 1e9 * PAGE_BYTES / GIB / row[column]
            about = ["published", "published-rates.csv", row["note"], row["reference"]]
            yield ["paper", row["system"], memory, ns, ns, ns, row[column], *about]


def _of_today(cases: Cases) -> Iterator[list[Any]]:
    """Yield the whole inflations of each source; hinting and reporting may be left out."""
    for source in FOLDERS:
        for protocol in ("pfn", BULK[source]):
            for memory in STATES:
                one = cases.find(source, protocol, memory)
                if one is None:
                    continue
                found = estimate([one.summed()], lambda ns: ns[..., 0])
                ns = np.array(found[:3])
                about = [found.interval, one.data, "", ""]
                yield [source, protocol, memory, *ns, _rate(found.value), *about]
