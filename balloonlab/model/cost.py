"""Times from counts: each part of a stage is a sum of units times what a unit costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import datasets
from ..measurement.options import PathLike, check_number
from ..measurement.tables import as_frame
from ..sizes import format_number
from .evidence import evidence, gather
from .fitting import Floats, Sample, fit_part, identified, resampled
from .terms import COSTS, KICK, KICK_PARTS, PARTS, derived, group_of, measured_part, names_of

FILE = "model/costs.json"
N_DRAWS = 50
PRIOR = 4
"""Cases that the spread of all cases of a part counts for, where a group has few of its own."""

WIDER = 1.1
"""By how much units per page may be beyond those fitted, where they matter."""

MATTERS = 0.05
"""Share of the operation from which on they do."""

FARTHER = 2.0
"""By how much an operation may have fewer or more pages than those fitted."""

UNDETERMINED = 10.0
"""How many times its low end the high end of a part's costs may be, where it matters."""

LEVEL = 90  # per cent of an interval
SIMULATED = 1000


@dataclass
class PartCosts:
    """Costs of a part of a stage for one group of cases, and what is known of them."""

    stage: str
    part: str
    group: str
    names: list[str]
    ns: list[float]
    draws: list[list[float]]  # of the bootstrap, (draws, costs)
    identified: list[bool]
    least: list[float]  # units per page that were fitted; 0 where the cost is identified
    most: list[float]
    bound: list[float]  # ns per unit that no case allows to be exceeded
    effects: dict[str, float]  # logs of the runs' factors
    unsure: dict[str, float]  # standard errors of these
    between: float  # spread of runs, of cases
    within: float
    n_cases: int


class PartTime(NamedTuple):
    """A predicted part."""

    stage: str
    part: str
    fitted_ns: float
    given_ns: float  # by costs that the caller gave
    draws: Floats  # of `fitted_ns`


@dataclass(repr=False)
class CostModel:
    """Fitted costs; `fit` and `balloonlab.calibrate` make one.

    Attributes
    ----------
    machines : dict
        By ``machine|source``, what was measured there: ``n_pages``, the fewest and the most, and
        ``protocols``.
    parts : list of PartCosts
        The costs, one entry for each part of a stage and each group of cases.
    """

    machines: dict[str, dict[str, Any]]
    parts: list[PartCosts] = field(default_factory=list)

    def __repr__(self) -> str:
        n = sum(len(part.names) for part in self.parts)
        names = {key.split("|")[0] for key in self.machines}
        machines = "a machine" if len(names) == 1 else f"{len(names)} machines"
        return f"CostModel({n} costs, fitted to {machines})"

    def _repr_html_(self) -> str:
        return f"{self!r}{self.costs.to_html(index=False, float_format=format_number)}"

    @property
    def costs(self) -> pd.DataFrame:
        """All costs.

        One row each: ``stage``, ``part``, ``group`` (what it was fitted for), ``name``, ``unit``,
        ``ns`` per unit, ``low_ns`` and ``high_ns`` (90 % of the bootstrap), ``identified`` (the
        data tell it from the others of its part; else only their sum means something),
        ``n_cases``, ``n_runs``, ``between`` and ``within`` (the spread of runs, and of a run's
        cases, as logs).
        """
        rows = []
        for part in self.parts:
            draws = np.array(part.draws).reshape(-1, len(part.names))
            low, high = _ends(draws)
            for k, name in enumerate(part.names):
                rows.append(
                    {
                        "stage": part.stage, "part": part.part, "group": part.group, "name": name,
                        "unit": COSTS[name].unit, "ns": part.ns[k], "low_ns": low[k],
                        "high_ns": high[k], "identified": part.identified[k],
                        "n_cases": part.n_cases, "n_runs": len(part.effects),
                        "between": part.between, "within": part.within,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def machine_of(self, source: str, machine: str | None = None) -> str:
        """Return the machine that a prediction is for: by default that of the most cases."""
        known = [key.split("|")[0] for key in self.machines if key.endswith(f"|{source}")]
        if not known:
            raise ValueError(
                f"the model knows no measurement of source {source!r}, of which it needs some"
            )
        if machine is not None and machine not in known:
            rule = f"machine must be one of {known} for source {source!r}"
            raise ValueError(f"{rule}, got {machine!r}")
        if machine is not None:
            return machine
        return max(known, key=lambda name: self.machines[f"{name}|{source}"]["n_cases"])

    def find(self, stage: str, part: str, group: str) -> PartCosts | None:
        """Return the costs of a part of a stage for a group of cases."""
        if not hasattr(self, "_index"):
            self._index = {(p.stage, p.part, p.group): p for p in self.parts}
        return self._index.get((stage, part, group))

    def parts_of(self, case: Mapping[str, Any]) -> list[PartCosts]:
        """Return the costs that a case needs (ValueError: nothing like it was measured)."""
        other = "release" if case["operation"] == "inflate" else "allocate"
        found = []
        for stage, part in PARTS:
            if stage == other or (case["protocol"] == "madvise" and stage != "discard"):
                continue
            group = group_of(stage, part, case)
            costs = self.find(stage, part, group)
            if costs is None and part == "exit":  # in a thread, or of a run that did not measure it
                continue
            if costs is None:
                raise ValueError(
                    f"the model knows no {stage} of {group}: fit it to measurements that have it"
                )
            found.append(costs)
        return found

    def beyond(self, case: Mapping[str, Any]) -> list[str]:
        """Return in what a case is outside of what was fitted, as phrases; nothing where it is not.

        `case` has the columns of `balloonlab.model.terms.derived`.
        """
        reach = self.machines[f"{case['machine']}|{case['source']}"]
        n_pages, (least, most) = max(case["n_pages"], 1), reach["n_pages"]
        found = []
        if not least / FARTHER <= n_pages <= most * FARTHER:
            found.append(f"n_pages {n_pages} (fitted to {least} to {most})")
        if case["protocol"] not in reach["protocols"]:
            spoken = ", ".join(reach["protocols"])
            found.append(f"protocol {case['protocol']} (fitted to {spoken})")
        parts = self.parts_of(case)
        total_ns = sum(_ns(part, case) for part in parts)
        for part in parts:
            for k, name in enumerate(part.names):
                ratio, unit = case[COSTS[name].unit] / n_pages, COSTS[name].unit
                off = max(ratio - part.most[k] * WIDER, part.least[k] / WIDER - ratio)
                if off > 0 and off * n_pages * part.bound[k] > MATTERS * total_ns:
                    span = f"{part.least[k]:.3g} to {part.most[k]:.3g}"
                    found.append(f"{unit} per page {ratio:.3g} in {part.stage} (fitted to {span})")
            low, high = _ends(np.array(part.draws) @ _units(part, case))
            if high > max(UNDETERMINED * low, MATTERS * total_ns):
                found.append(
                    f"{part.stage}, which the data leave open ({low:.2g} to {high:.2g} ns)"
                )
        return list(dict.fromkeys(found))

    def times(
        self, case: Mapping[str, Any], given: Mapping[str, float], run: str | None = None
    ) -> list[PartTime]:
        """Predict the parts of a case; `run` is one that it belongs to, of which others are known.

        The draws have the errors of the costs, of the run and of the case in them. `given` are
        costs by name that stand in the place of the fitted ones.
        """
        rng, times = np.random.default_rng(0), []
        peculiar = rng.standard_normal(SIMULATED)  # of the run, alike in all its parts
        own: dict[tuple[str, str], Floats] = {}  # of the case, alike in what is measured as one
        for part in self.parts_of(case):
            units = _units(part, case)
            mine = np.array([name in given for name in part.names])
            given_ns = sum(given.get(n, 0) * u for n, u in zip(part.names, units, strict=True))
            if KICK in given and part.part in KICK_PARTS:
                mine[:] = True
                given_ns = given[KICK] * case["n_kicks"] if part.part == KICK_PARTS[-1] else 0
            units[mine] = 0
            draws = (np.array(part.draws) @ units)[np.arange(SIMULATED) % len(part.draws)]
            log_run = part.effects.get(run, 0.0) if run is not None else 0.0
            between = part.unsure.get(str(run), part.between)
            degrees = max(3, len(part.effects) - 1)
            heavy = np.sqrt(degrees / rng.chisquare(degrees, SIMULATED))
            measured = measured_part(part.stage, part.part)
            if measured not in own:
                own[measured] = rng.standard_normal(SIMULATED)
            error = between * peculiar * heavy + part.within * own[measured]
            fitted_ns = float(np.array(part.ns) @ units * np.exp(log_run))
            times.append(
                PartTime(
                    part.stage, part.part, fitted_ns, float(given_ns),
                    draws * np.exp(log_run + error),
                )
            )  # fmt: skip
        return times

    def save(self, path: PathLike) -> None:
        """Write the model as one JSON file, which `load_model` reads."""
        data = {"machines": self.machines, "parts": [asdict(part) for part in self.parts]}
        Path(path).write_text(json.dumps(_short(data), indent=None) + "\n")


def _short(data: Any) -> Any:
    """Return data with floats of six digits."""
    if isinstance(data, float | np.floating):
        return float(f"{data:.6g}")
    if isinstance(data, dict):
        return {key: _short(value) for key, value in data.items()}
    return [_short(value) for value in data] if isinstance(data, list) else data


def _units(part: PartCosts, case: Mapping[str, Any]) -> Floats:
    return np.array([case[COSTS[name].unit] for name in part.names], float)


def _ns(part: PartCosts, case: Mapping[str, Any]) -> float:
    return float(np.array(part.ns) @ _units(part, case))


def _ends(draws: Floats) -> Floats:
    """Return the ends of the interval of draws."""
    ends: Floats = np.percentile(draws, [50 - LEVEL / 2, 50 + LEVEL / 2], axis=0)
    return ends


def load_model(path: PathLike | None = None) -> CostModel:
    """Load a model that was saved, by default the one fitted to the shipped runs.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or it holds no model.

    Examples
    --------
    >>> load_model()
    CostModel(... costs, fitted to a machine)
    """
    file = datasets.path(FILE) if path is None else Path(path)
    try:
        data = json.loads(file.read_text())
        return CostModel(data["machines"], [PartCosts(**part) for part in data["parts"]])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} holds no model of balloonlab.model.fit: {error!r}") from None


def fit(
    data: Any = None, n_draws: int = N_DRAWS, seed: int = 0, prior: CostModel | None = None
) -> CostModel:
    """Fit costs to measured operations of several runs, jointly.

    The time of a part of a stage is the sum of its units times their costs, times a factor of the
    run (the difference between process starts), times one of the case. Costs are never negative,
    errors are relative. Machines that are unlike (processor, kernel) have costs of their own. The
    bootstrap draws runs, and of each run cases.

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
