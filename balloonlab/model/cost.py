"""Times from counts: each part of a stage is a sum of units times what a unit takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..measurement.tables import as_frame
from ..sizes import format_number
from .counting import COUNTS

TERMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("allocate", "all"): ("n_pages",),
    ("release", "all"): ("n_pages",),
    ("send", "pack"): ("n_pages", "wire_bytes"),
    ("send", "notify"): ("n_kicks",),
    ("send", "decode"): ("wire_bytes",),
    ("translate", "all"): ("n_translations",),
    ("discard", "all"): ("n_discards", "n_pages"),
}
"""What the time of each stage part is made of; the remainder is not predicted."""

GROUPS: dict[str, tuple[str, ...]] = {
    "allocate": (),
    "release": (),
    "send": ("protocol",),
    "translate": ("discard",),
    "discard": ("operation", "touched", "thp"),
}
"""What a stage's costs depend on besides the counts: fitted apart for each value."""

CASE = ("protocol", "discard", "operation", "touched", "thp")
ABOUT = (*CASE, "pattern", "memory_bytes", "balloon_bytes")


@dataclass(frozen=True, repr=False)
class CostModel:
    """Fitted costs.

    Attributes
    ----------
    costs : pandas.DataFrame
        One row per term: ``stage``, ``part``, ``group`` (values of `GROUPS`, comma
        separated), ``term`` (a count) and ``ns`` per unit of it.
    source : str
        Whose measurements it was fitted to: ``lab`` or ``qemu``.
    """

    costs: pd.DataFrame
    source: str

    def __repr__(self) -> str:
        return f"CostModel({len(self.costs)} costs, fitted to {self.source})"

    def _repr_html_(self) -> str:
        return f"{self!r}{self.costs.to_html(index=False, float_format=format_number)}"

    def predict(self, case: Mapping[str, object], counts: Mapping[str, float]) -> pd.DataFrame:
        """Predict the stages of one operation.

        Parameters
        ----------
        case : mapping
            ``protocol``, ``discard``, ``operation``, ``touched``, ``thp``.
        counts : mapping
            `COUNTS` of the operation, such as those in a measured frame.

        Returns
        -------
        pandas.DataFrame
            Columns ``source`` (``"model"``), ``stage``, ``part`` and ``time_ns``.

        Raises
        ------
        ValueError
            Nothing like that was in the measurements the model was fitted to.
        """
        ns = self.costs.set_index(["stage", "part", "group", "term"])["ns"].to_dict()
        other = "release" if case["operation"] == "inflate" else "allocate"
        rows = []
        for (stage, part), terms in TERMS.items():
            if stage == other:
                continue
            group = _group(stage, case)
            if (stage, part, group, terms[0]) not in ns:
                what = f"the model knows no {stage} of {group or 'any case'}"
                raise ValueError(f"{what}: fit it to measurements that have it")
            time_ns = sum(ns[stage, part, group, term] * counts[term] for term in terms)
            rows.append(("model", stage, part, time_ns))
        return pd.DataFrame(rows, columns=["source", "stage", "part", "time_ns"])

    def compare(self, frame: Any) -> pd.DataFrame:
        """Compare the predictions with measured operations, a ``run_id`` per case.

        Returns
        -------
        pandas.DataFrame
            One row per case: its `CASE` columns, ``pattern``, ``memory_bytes``,
            ``balloon_bytes``, ``measured_ns`` (median total over the repeats, without the
            remainder), ``predicted_ns`` and ``ratio``, predicted over measured. A case that
            the measurements say nothing about is left out.
        """
        rows = []
        timed = as_frame(frame).query("stage != 'remainder'")
        for _, case in timed.groupby("run_id", sort=False):
            first = case.iloc[0]
            try:
                predicted_ns = self.predict(first, first)["time_ns"].sum()
            except ValueError:
                continue
            measured_ns = case.groupby("repeat")["time_ns"].sum().median()
            ratio = predicted_ns / measured_ns
            rows.append([*first[list(ABOUT)], measured_ns, predicted_ns, ratio])
        return pd.DataFrame(rows, columns=[*ABOUT, "measured_ns", "predicted_ns", "ratio"])


def _group(stage: str, case: Mapping[str, object]) -> str:
    return ",".join(f"{name}={case[name]}" for name in GROUPS[stage])


def fit(frame: Any) -> CostModel:
    """Fit costs to measured operations.

    Costs are never negative. The error relative to the measured time is made small, so that
    a case of a millisecond weighs as much as one of seconds (non-negative least squares, Lawson
    and Hanson).

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        Measurements of one source (else ValueError) and one machine; the more the cases differ
        in their counts, the better the terms are separated.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> fit(load(datasets.path("sizes")))
    CostModel(19 costs, fitted to lab)
    """
    from scipy.optimize import nnls

    frame = as_frame(frame)
    sources = frame["source"].unique()
    if len(sources) != 1:
        raise ValueError(f"frame must hold measurements of one source, got {list(sources)}")
    rows = []
    for (stage, part), terms in TERMS.items():
        measured = frame.query("stage == @stage and part == @part")
        # Medians: single repeats err upwards only, and would pull relative errors down.
        measured = measured.groupby(["run_id", *CASE, *COUNTS], as_index=False)["time_ns"].median()
        measured = measured[measured["time_ns"] > 0]
        keys = [_group(stage, row) for row in measured[list(CASE)].to_dict("records")]
        for group, part_rows in measured.groupby(keys):
            weights = 1 / part_rows["time_ns"].to_numpy(float)
            counts = part_rows[list(terms)].to_numpy(float) * weights[:, None]
            found, _ = nnls(counts, np.ones(len(weights)))
            rows += [(stage, part, group, *pair) for pair in zip(terms, found, strict=True)]
    costs = pd.DataFrame(rows, columns=["stage", "part", "group", "term", "ns"])
    return CostModel(costs, str(sources[0]))


def validate(frame: Any, by: str = "run_id") -> pd.DataFrame:
    """Compare each case with its prediction from the others, to which alone a model is fitted.

    Parameters
    ----------
    frame
        As in `fit`.
    by : str
        Cases that are alike in this column are left out together: by ``memory_bytes`` each size
        is predicted from the other sizes. By default each case is predicted from all others.
        ValueError where all are alike: there is nothing to leave out.

    Returns
    -------
    pandas.DataFrame
        As `CostModel.compare`.
    """
    frame = as_frame(frame)
    if frame[by].nunique() < 2:
        raise ValueError(f"frame must hold at least two values of {by}: one is left out in turn")
    groups = frame.groupby(by, sort=False)
    tables = [fit(frame[frame[by] != value]).compare(rows) for value, rows in groups]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
