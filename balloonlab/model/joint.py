"""The joint fit: the costs of every part of a stage and group of cases, from all runs at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..measurement.options import check_number
from ..measurement.tables import as_frame
from .cost import CostModel, PartCosts
from .evidence import evidence, gather
from .fitting import Sample, fit_part, identified, resampled
from .terms import COSTS, PARTS, derived, group_of, names_of

N_DRAWS = 50
PRIOR = 4
"""Cases that the spread of all cases of a part counts for, where a group has few of its own."""


def fit(
    data: Any = None, n_draws: int = N_DRAWS, seed: int = 0, prior: CostModel | None = None
) -> CostModel:
    """Fit costs to measured operations of several runs, jointly.

    The time of a part of a stage is the sum of its units times their costs, times a factor of the
    run (a folder of data, or a process start of a calibration), times one of the case. Costs are
    never negative, errors are of logarithms. Machines that are unlike (processor, kernel) have
    costs of their own. The bootstrap draws runs, and of each run cases.

    Parameters
    ----------
    data : mapping, Run or pandas.DataFrame, optional
        Measured frames by the name of the run, one run, or a table as `balloonlab.model.evidence`
        has; by default that table, of all shipped runs.
    n_draws : int
        Draws of the bootstrap, at least 2.
    seed : int
        Of the bootstrap.
    prior : CostModel, optional
        What a few cases cannot say is taken from it: how far runs and cases stray at least, and
        over which numbers of pages times are proportional to them.

    Returns
    -------
    CostModel

    Raises
    ------
    ValueError
        There is no case among the data that can be modelled.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> model = fit(load(datasets.path("sizes")), n_draws=2)
    >>> model.costs.query("name == 'free' and group.str.contains('touched=True,thp=False')").shape
    (1, 13)
    """
    check_number("n_draws", n_draws, 2)
    table = as_table(data)
    if table.empty:
        raise ValueError("data must hold cases of balloonlab's own driver and device, got none")
    keys = table["run"] + " " + table["run_id"]
    table = derived(table).assign(total_ns=table["time_ns"].groupby(keys).transform("sum"))
    model = CostModel(_reach(table, prior))
    rng = np.random.default_rng(seed)
    runs = sorted(table["run"].unique())
    numbers = table["run"].map({name: number for number, name in enumerate(runs)})
    chosen = [rng.choice(len(runs), len(runs)) for _ in range(n_draws)]
    for stage, part in PARTS:
        rows = table[(table["stage"] == stage) & (table["part"] == part)]
        groups = [group_of(stage, part, row) for row in rows.to_dict("records")]
        for group, cases in rows.groupby(groups, sort=False):
            model.parts.append(
                _fit_group(stage, part, str(group), cases, numbers, runs, chosen, rng)
            )
    _pool_spreads(model.parts, prior)
    return model


def as_table(data: Any) -> pd.DataFrame:
    """Return the evidence in what `fit` takes."""
    if data is None:
        return evidence()
    if isinstance(data, pd.DataFrame) and "n_runs" in data:
        return data
    if isinstance(data, Mapping):
        return gather(data)
    as_frame(data, "data")
    return gather({"run": data})


def _reach(table: pd.DataFrame, prior: CostModel | None) -> dict[str, dict[str, Any]]:
    found = {}
    known = prior.machines if prior else {}
    for (machine, source), rows in table.groupby(["machine", "source"]):
        cases = rows.drop_duplicates(["run", "run_id"])
        spans = [reach["n_pages"] for key, reach in known.items() if key.endswith(f"|{source}")]
        spans.append([int(rows["n_pages"].min()), int(rows["n_pages"].max())])
        found[f"{machine}|{source}"] = {
            "n_cases": len(cases),
            "n_pages": [min(span[0] for span in spans), max(span[1] for span in spans)],
            "protocols": sorted(rows["protocol"].unique()),
        }
    return found


def _fit_group(
    stage: str,
    part: str,
    group: str,
    cases: pd.DataFrame,
    numbers: pd.Series,
    runs: list[str],
    chosen: list[Any],
    rng: np.random.Generator,
) -> PartCosts:
    names = names_of(stage, part)
    units = cases[[COSTS[name].unit for name in names]].to_numpy(float)
    time_ns, total_ns = (cases[name].to_numpy(float) for name in ("time_ns", "total_ns"))
    sample = Sample(units, time_ns, total_ns, numbers[cases.index].to_numpy())
    found = fit_part(sample, len(runs))
    draws = [fit_part(resampled(sample, drawn, rng), len(runs)).ns.tolist() for drawn in chosen]
    ratios = units / cases["n_pages"].to_numpy(float)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.where(units > 0, sample.time_ns[:, None] / units, np.inf).min(axis=0)
    apart = identified(sample)
    return PartCosts(
        stage, part, group, names, found.ns.tolist(), draws, apart.tolist(),
        np.where(apart, 0, ratios.min(axis=0)).tolist(), ratios.max(axis=0).tolist(),
        np.where(np.isfinite(bound), bound, 1e6).tolist(),
        {runs[n]: float(found.effects[n]) for n in np.unique(sample.run)},
        {runs[n]: float(found.unsure[n]) for n in np.unique(sample.run)},
        found.between, found.within * np.sqrt(found.dof), len(cases),
    )  # fmt: skip


def _pool_spreads(parts: list[PartCosts], prior: CostModel | None) -> None:
    """Draw the spreads of groups with few cases or runs to those of all groups of the part.

    `within` comes as the root of a sum of squares.
    """
    for stage, part in PARTS:
        alike = [one for one in parts if (one.stage, one.part) == (stage, part)]
        if not alike:
            continue
        n_fitted = [len(one.effects) + int(np.count_nonzero(one.most)) for one in alike]
        degrees = [max(1, one.n_cases - n) for one, n in zip(alike, n_fitted, strict=True)]
        pooled = sum(one.within**2 for one in alike) / sum(degrees)
        several = [one for one in alike if len(one.effects) > 1] or alike
        apart = float(np.median([one.between**2 for one in several]))
        earlier = (
            [one for one in prior.parts if (one.stage, one.part) == (stage, part)] if prior else []
        )
        if earlier:
            apart = max(apart, float(np.median([one.between**2 for one in earlier])))
            pooled = max(pooled, float(np.median([one.within**2 for one in earlier])))
        for one, dof in zip(alike, degrees, strict=True):
            one.within = float(np.sqrt((one.within**2 + PRIOR * pooled) / (dof + PRIOR)))
            n = len(one.effects) - 1
            one.between = float(np.sqrt((n * one.between**2 + 2 * apart) / (n + 2)))
