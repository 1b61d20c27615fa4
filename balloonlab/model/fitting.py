"""The fit of one part of a stage: costs that are never negative, and how far runs and cases stray.

The time of a case is its units times their costs, times what is peculiar to its run, times what is
peculiar to the case. Both are small where the part is a small share of the
operation: what is far below `FLOOR` of it is not worth fitting.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FLOOR = 0.02
"""Share of the whole operation that is added to the part when errors are made relative."""

ROUNDS = 10
MOST_EFFECT = 1.0  # log of a factor
COLLINEAR = 1e-3
"""A cost is identified where so much of its column is not a combination of the others."""


class Sample(NamedTuple):
    """Cases of one part and group."""

    units: Floats  # shape (n, k): what each cost is per
    time_ns: Floats
    total_ns: Floats  # of the whole operation
    run: npt.NDArray[np.int64]  # number of the run


class Fit(NamedTuple):
    """What was found."""

    ns: Floats  # shape (k,)
    effects: Floats  # log of each run's factor, shape (runs,); 0 on average
    unsure: Floats  # standard error of each
    between: float  # spread of the runs' logs
    within: float  # spread of a run's cases
    dof: int  # of `within`


def _solve(columns: Floats, wanted: Floats) -> Floats:
    """Solve least squares without negative costs (Lawson and Hanson)."""
    from scipy.optimize import nnls

    scale = columns.max(axis=0)
    scale[scale == 0] = 1
    return nnls(columns / scale, wanted)[0] / scale


def fit_part(sample: Sample, n_runs: int) -> Fit:
    """Fit costs and the runs' factors in turns; the latter are drawn to 1 as far as runs agree."""
    units, time_ns, total_ns, run = sample
    effects, floor = np.zeros(n_runs), FLOOR * total_ns
    weight = 1 / (time_ns + floor)
    between2 = within2 = 0.0
    unsure2: npt.NDArray[Any] = np.zeros(n_runs)
    ns = np.zeros(units.shape[1])
    present = np.bincount(run, minlength=n_runs) > 0
    n_fitted = int(present.sum()) + int(units.any(axis=0).sum())  # a factor per run, the costs
    dof = max(1, len(run) - n_fitted)
    for _ in range(ROUNDS):
        ns = _solve(units * (np.exp(effects[run]) * weight)[:, None], time_ns * weight)
        fitted = units @ ns
        # Errors are of logs: over the measured times alone those that came out short would count
        # most, and costs be too low.
        weight = 1 / np.sqrt((time_ns + floor) * (fitted + floor))
        residual = np.log((time_ns + floor) / (fitted + floor))
        share = fitted / (fitted + floor)  # how much of a factor shows
        known = np.bincount(run, share * share, n_runs)
        mean = np.bincount(run, residual * share, n_runs) / np.maximum(known, 1e-9)
        mean = np.clip(mean, -MOST_EFFECT, MOST_EFFECT)
        within2 = float(((residual - mean[run] * share) ** 2).sum() / dof)
        clear = known > 0.3
        between2 = 0.01
        if clear.sum() > 1:
            noise = float((within2 / known[clear]).mean())
            between2 = max(1e-4, float(mean[clear].var(ddof=1)) - noise)
        part_of = between2 / (known * between2 + within2 + 1e-12)
        drawn, unsure2 = mean * known * part_of, within2 * part_of
        if clear.any():
            drawn[present] -= drawn[clear].mean()
        effects = np.clip((effects + drawn) / 2, -MOST_EFFECT, MOST_EFFECT)
    return Fit(
        ns, effects, np.sqrt(unsure2), float(np.sqrt(between2)), float(np.sqrt(within2)), dof
    )


def identified(sample: Sample) -> npt.NDArray[np.bool_]:
    """Return which costs the cases tell apart: those whose units the others do not make up."""
    weighted = sample.units / (sample.time_ns + FLOOR * sample.total_ns)[:, None]
    found = np.zeros(weighted.shape[1], np.bool_)
    norms = np.linalg.norm(weighted, axis=0)
    for k in np.flatnonzero(norms > 0):
        others = np.delete(weighted, k, axis=1)
        others = others[:, others.any(axis=0)] / np.maximum(norms.max(), 1e-300)
        column = weighted[:, k] / norms[k]
        if others.size == 0:
            found[k] = True
            continue
        rest = column - others @ np.linalg.lstsq(others, column, rcond=None)[0]
        found[k] = len(column) > others.shape[1] and float(rest @ rest) > COLLINEAR
    return found


def resampled(sample: Sample, chosen: npt.NDArray[np.int64], rng: Any) -> Sample:
    """Return the cases of the runs that were drawn, and of each as many cases, drawn too."""
    rows = []
    for number in chosen:
        own = np.flatnonzero(sample.run == number)
        if own.size:
            rows.append(rng.choice(own, own.size))
    if not rows:
        rows = [rng.choice(len(sample.run), len(sample.run))]
    return Sample(*(column[np.concatenate(rows)] for column in sample))
