"""The rungs from the legacy driver down to the floor, and what a measured run says of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..measurement.estimates import estimate
from ..measurement.on_lab import FLOOR
from ..measurement.ratio import ratio_of
from ..measurement.run import Run
from ..measurement.starts import kind_of, unit_times
from ..measurement.tables import as_frame
from ..sizes import GIB


class Rung(NamedTuple):
    """A way to inflate: what is better than on the rung above, and who must change for it.

    Attributes
    ----------
    name : str
    who : str
        Who must change: ``nobody``, ``host`` or ``both``, host and guest.
    options : dict
        Arguments of `balloonlab.measure`.
    """

    name: str
    who: str
    options: dict[str, Any]


_VECTORED = {"discard": "sorted-vector", "collect": 32}
_BLOCKS = {"protocol": "bitmap-v4", "discard": "vector"}

RUNGS = (
    Rung("legacy: a madvise per page", "nobody", {"protocol": "pfn", "discard": "page"}),
    Rung("neighbours joined", "host", {"protocol": "pfn", "discard": "range"}),
    Rung("vectored", "host", {"protocol": "pfn", "discard": "vector"}),
    Rung("32 messages together", "host", {"protocol": "pfn", **_VECTORED}),
    Rung("two threads", "host", {"protocol": "pfn", **_VECTORED, "threads": 2}),
    Rung("bitmap-v4", "both", {**_BLOCKS, "threads": 2}),
    Rung("whole blocks", "both", {**_BLOCKS, "threads": 2, "allocation": "chunk"}),
    Rung("floor: one madvise", "", {"protocol": FLOOR, "discard": "single"}),
)
"""Each is measured; all but the first and the last better the one above, or are to."""

SCENARIOS = {
    "idle, touched": {"pattern": "idle", "balloon": 7 / 8, "touched": True, "thp": False},
    "idle, untouched": {"pattern": "idle", "balloon": 7 / 8, "touched": False, "thp": False},
    "idle, huge pages": {"pattern": "idle", "balloon": 7 / 8, "touched": True, "thp": True},
    "random, touched": {"pattern": "random", "balloon": 0.5, "touched": True, "thp": False},
}
"""Guests that a ladder is measured in."""

COLUMNS = [
    *("scenario", "source", "rung", "who", "repeats", "median_ms", "least_ms", "greatest_ms"),
    *("page_ns", "page_low_ns", "page_high_ns", "page_interval", "gib_per_s"),
    *("gain", "gain_low", "gain_high", "interval"),
]


def rung_times(data: Run | pd.DataFrame) -> pd.DataFrame:
    """Return a row for each scenario, source and rung that a run has measured.

    Parameters
    ----------
    data : Run or pandas.DataFrame
        What `balloonlab.bench` measured, or any run with such cases.

    Returns
    -------
    pandas.DataFrame
        In order of the ladder: ``scenario``, ``source``, ``rung``, ``who`` must change for it,
        ``repeats``, their ``median_ms``, ``least_ms`` and ``greatest_ms``, ``page_ns`` per page
        with its interval ``page_low_ns`` to ``page_high_ns``, ``page_interval``, ``gib_per_s``; of
        several starts (`balloonlab.campaign`) each counts as one, by its median.
        ``gain`` is how many times faster than the first rung, ``gain_low`` to ``gain_high`` its
        ``interval``, a bootstrap or with fewer than five starts the range. No rows where
        nothing fits.
    """
    frame = as_frame(data)
    times = unit_times(frame)
    cases = frame.drop_duplicates("run_id").set_index("run_id")
    rows = []
    for scenario, setting in SCENARIOS.items():
        for source in cases["source"].unique():
            mine = _fitting(cases[cases["source"] == source], setting)
            base: Any = None
            for rung in RUNGS:
                fitting = _fitting(mine, _whole(rung))
                if fitting.empty:
                    continue
                ns, case = starts_of(times[fitting.index]), fitting.iloc[0]
                kind = "starts" if len(fitting) > 1 else kind_of(frame)
                base = ns if base is None and rung is RUNGS[0] else base
                rows.append([scenario, source, rung.name, rung.who, *_speeds(ns, case, base, kind)])
    return pd.DataFrame(rows, columns=COLUMNS)


def starts_of(times: pd.Series) -> npt.NDArray[np.float64]:
    """Return the repeats of a case, or of several starts the median of each.

    `times` has an array for each start.
    """
    if len(times) == 1:
        return np.asarray(times.iloc[0], float)
    return np.array([np.median(repeats) for repeats in times])


PLAIN = {"threads": 1, "collect": 1, "allocation": "page", "in_flight": 1, "operation": "inflate"}
"""What rungs do not say."""


def _whole(rung: Rung) -> dict[str, Any]:
    return PLAIN | rung.options


def _fitting(cases: pd.DataFrame, setting: dict[str, Any]) -> pd.DataFrame:
    """Return the cases with these options, of which a balloon is a share of memory."""
    for name, value in setting.items():
        if name == "balloon":
            share = cases["balloon_bytes"] / cases["memory_bytes"]
            cases = cases[np.isclose(share, value, atol=1e-3)]
        else:
            cases = cases[cases[name] == value]
    return cases


def _speeds(ns: Any, case: pd.Series, base: Any, kind: str) -> list[Any]:
    page = estimate([ns / case["n_pages"]], lambda page_ns: page_ns, kind)
    gain = [1.0 if base is ns else np.nan, np.nan, np.nan, ""]
    if base is not None and base is not ns:
        gain = [*ratio_of(base, ns, kind)]
    middle = float(np.median(ns))
    rate = case["balloon_bytes"] / GIB / (middle / 1e9)
    ms = (middle / 1e6, ns.min() / 1e6, ns.max() / 1e6)
    return [ns.size, *ms, *page, rate, *gain]
