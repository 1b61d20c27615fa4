"""Values over process starts, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

Array = npt.NDArray[np.float64]

LEAST_FOR_BOOTSTRAP = 5
"""Starts; of fewer the interval is the range over every choice of one start of each case."""


class Estimate(NamedTuple):
    """A value, its interval's ends, and what the interval is, as ``range of 3 starts``."""

    value: float
    low: float
    high: float
    interval: str


def estimate(
    samples: Sequence[npt.NDArray[Any]],
    of: Callable[..., Array | float],
    kind: str = "starts",
) -> Estimate:
    """Return a function of cases, at their medians over process starts, and its interval.

    Parameters
    ----------
    samples : sequence of arrays, shape (n_starts, ...)
        What was measured of each case: a time per start, or several. None where the value is
        published.
    of : callable
        Takes an array of shape (..., *the rest of a sample's shape*) for each sample.
    kind : str
        What samples hold, for the name of the interval. ``repeats`` of one start say nothing of
        others: of them only the range is given.

    Returns
    -------
    Estimate
        From five starts of each on the ``95 %`` interval of the bootstrap over starts, those of
        different cases drawn apart; else the ``range`` over every choice of one start of each.
        Without samples ``published``, of no width.

    Examples
    --------
    >>> estimate([np.array([3.0, 4.0]), np.array([1.0, 2.0])], lambda a, b: a / b)
    Estimate(value=2.3333333333333335, low=1.5, high=4.0, interval='range of 2 starts')
    """
    value = float(of(*(np.median(one, axis=0) for one in samples)))
    if not samples:
        return Estimate(value, value, value, "published")
    n = min(len(one) for one in samples)
    if kind == "repeats" or n < LEAST_FOR_BOOTSTRAP:
        every = [float(of(*rows)) for rows in product(*samples)]
        return Estimate(value, min(every), max(every), f"range of {n} {kind}")

    def drawn(*numbers: npt.NDArray[np.int64], axis: int) -> Array | float:
        pairs = zip(samples, numbers, strict=True)
        return of(*(np.median(one[chosen], axis=chosen.ndim - 1) for one, chosen in pairs))

    found = bootstrap(
        tuple(np.arange(len(one)) for one in samples), drawn, vectorized=True,
        n_resamples=2000, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(found.low), float(found.high), f"95 % of {n} {kind}")


def middle(values: npt.ArrayLike, kind: str = "starts") -> Estimate:
    """Return the median of values, with its interval as `estimate` has it."""
    return estimate([np.asarray(values, float)], lambda one: one, kind)


def spanning(estimates: Iterable[Estimate]) -> Estimate:
    """Return the middle of several values, and an interval that reaches over all of theirs."""
    found = list(estimates)
    if len(found) == 1:
        return found[0]
    table = np.array([one[:3] for one in found])
    value, low, high = np.median(table[:, 0]), table[:, 1].min(), table[:, 2].max()
    return Estimate(float(value), float(low), float(high), f"over {len(table)} cases")
