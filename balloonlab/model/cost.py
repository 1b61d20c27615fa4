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
from ..measurement.options import PathLike
from ..sizes import format_number
from .fitting import Floats
from .terms import COSTS, KICK, KICK_PARTS, PARTS, group_of, measured_part

FILE = "model/costs.json"

WIDER = 1.1
"""By how much units per page may be beyond those fitted, where they matter."""

MATTERS = 0.05
"""Share of the operation from which on they do."""

FARTHER = 2.0
"""By how much an operation may have fewer or more pages than those fitted."""

UNDETERMINED = 10.0
"""How many times its low end the high end of a part's costs may be, where it matters."""

LEVEL = 95  # per cent of an interval
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
        ``ns`` per unit, ``low_ns`` and ``high_ns`` (95 % of the bootstrap), ``identified`` (the
        data tell it from the others of its part; else only their sum means something),
        ``n_cases``, ``n_runs``, ``between`` and ``within`` (the spread of runs, and of a run's
        cases, as logs).
        """
        rows = []
        for part in self.parts:
            draws = np.array(part.draws).reshape(-1, len(part.names))
            low, high = interval_of(draws)
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
            low, high = interval_of(np.array(part.draws) @ _units(part, case))
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
            log_run, between = 0.0, part.between
            if run in part.effects:
                log_run, between = part.effects[run], part.unsure[run]
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


def interval_of(draws: Any) -> Floats:
    """Return the ends of what `LEVEL` per cent of draws are within; draws are the first axis."""
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
