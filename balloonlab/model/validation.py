"""How good predictions are: cases that a model was not fitted to, against their measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .. import datasets
from ..measurement.options import check_choice
from .cost import CostModel, interval_of
from .joint import as_table, fit
from .terms import derived

ABOUT = [
    *("run", "machine", "run_id", "source", "protocol", "discard", "operation", "touched", "thp"),
    *("backing", "verb", "threads", "collect", "pattern", "memory_bytes", "balloon_bytes"),
]

N_DRAWS = 20
FILE = "model/validation.csv"


def validate(data: Any = None, by: str = "run", n_draws: int = N_DRAWS) -> pd.DataFrame:
    """Predict the cases that are left out of a fit to all others.

    Parameters
    ----------
    data
        As in `balloonlab.model.fit`.
    by : str
        Cases that are alike in this column are left out together: ``run``, ``memory_bytes``,
        ``pattern``, or any other of the table; ``traces``: all patterns that are traces at once.
    n_draws : int
        As in `balloonlab.model.fit`.

    Returns
    -------
    pandas.DataFrame
        One row per case: what it is, ``measured_ns`` (the medians of its parts, summed, without the
        remainder), ``predicted_ns``, ``low_ns`` and ``high_ns`` (95 %), ``error`` (predicted over
        measured, less 1), ``covered``, ``run_known`` (other cases of the run were in the fit) and
        ``refused``: why there is no prediction, or it is beyond what was fitted; else empty.

    Raises
    ------
    ValueError
        All cases are alike in `by`: there is nothing to leave out.
    """
    table = as_table(data)
    if by != "traces":
        check_choice("by", by, [*table.columns, "traces"])
    label = table["pattern"].str.startswith("trace:") if by == "traces" else table[by]
    if label.nunique() < 2:
        raise ValueError(f"data must hold at least two values of {by}: one is left out in turn")
    values = [True] if by == "traces" else label.unique()
    found = [
        compare(fit(table[label != value], n_draws=n_draws), table[label == value])
        for value in values
    ]
    return pd.concat(found, ignore_index=True)


def compare(model: CostModel, data: Any) -> pd.DataFrame:
    """Compare predictions with measured cases; the table is as of `validate`."""
    table = derived(as_table(data))
    rows = []
    for _, parts in table.groupby(["run", "run_id"], sort=False):
        case, measured_ns = parts.iloc[0].to_dict(), float(parts["time_ns"].sum())
        rows.append({name: case[name] for name in ABOUT} | {"measured_ns": measured_ns})
        try:
            beyond = model.beyond(case)
            times = model.times(case, {}, case["run"])
        except (KeyError, ValueError) as error:
            rows[-1] |= {"refused": f"unknown: {error}"}
            continue
        draws = sum(time.draws for time in times)
        low, high = interval_of(draws)
        predicted_ns = sum(time.fitted_ns for time in times)
        known = any(case["run"] in part.effects for part in model.parts_of(case))
        rows[-1] |= {
            "predicted_ns": predicted_ns, "low_ns": low, "high_ns": high,
            "error": predicted_ns / measured_ns - 1, "covered": low <= measured_ns <= high,
            "run_known": known, "refused": "; ".join(beyond),
        }  # fmt: skip
    names = ["predicted_ns", "low_ns", "high_ns", "error", "covered", "run_known", "refused"]
    return pd.DataFrame(rows, columns=[*ABOUT, "measured_ns", *names])


def validated() -> pd.DataFrame:
    """Load the validation of the shipped costs: what `validate` returns, by ``left_out``.

    Left out were, in turn, each size (``memory_bytes``), each ``pattern``, each ``run``, and all
    ``traces``. Cases without any prediction have NaN for it.

    Examples
    --------
    >>> sorted(validated()["left_out"].unique())
    ['memory_bytes', 'pattern', 'run', 'traces']
    """
    table = pd.read_csv(datasets.path(FILE), keep_default_na=False)
    for name in ("predicted_ns", "low_ns", "high_ns", "error"):
        table[name] = pd.to_numeric(table[name].replace("", np.nan))
    for name in ("covered", "run_known"):
        table[name] = table[name] == "True"
    return table


def summary(checked: pd.DataFrame, by: str | list[str] | None = None) -> pd.DataFrame:
    """Return how well the cases of `validate` were predicted.

    Parameters
    ----------
    checked : pandas.DataFrame
    by : str or list of str, optional
        Columns to tell apart.

    Returns
    -------
    pandas.DataFrame
        ``n_cases``, ``n_refused`` (of which the others do not count), ``median_error_percent`` and
        ``error_p90_percent`` (absolute), ``bias_percent`` (median with its sign),
        ``covered_percent``.
    """
    groups = checked.groupby(by) if by is not None else [("all", checked)]
    rows = {}
    for name, cases in groups:
        used = cases[cases["refused"] == ""]
        error = 100 * used["error"].astype(float)
        rows[name] = {
            "n_cases": len(cases),
            "n_refused": len(cases) - len(used),
            "median_error_percent": error.abs().median(),
            "error_p90_percent": error.abs().quantile(0.9),
            "bias_percent": error.median(),
            "covered_percent": 100 * used["covered"].astype(float).mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
