"""Numbers of models: predictions with their error, synthetic page sets."""

from __future__ import annotations

from functools import partial

import pandas as pd
from scipy.stats import binomtest

from ..measurement.estimates import Estimate, estimate
from ..model import counts, predict, validated
from ..pages import metrics, patterns
from ..sizes import parse_size
from .number import SHORT, Numbers, estimated, number

_model = partial(estimated, "model", "model")

UNITS_NS = {"hours": 3.6e12, "minutes": 6e10}


LEFT_OUT = {"memory_bytes": "sizes", "pattern": "patterns", "run": "runs", "traces": "traces"}


def _errors() -> Numbers:
    """How well cases are predicted that were left out of the fit; intervals are over cases."""
    checked = validated()
    for by, what in LEFT_OUT.items():
        rows = checked[(checked["left_out"] == by) & (checked["refused"] == "")]
        errors = 100 * rows["error"].astype(float).abs().to_numpy()
        held = rows["covered"].astype(bool)
        name, about, n = f"model_{what}", f"{what} left out", f"95 % of {len(rows)} cases"
        middle_error = estimate([errors], lambda error: error, "cases")
        yield _model(f"{name}_error_percent", middle_error, "%", about, "median error")
        found = binomtest(int(held.sum()), len(held)).proportion_ci(method="wilson")
        covered = Estimate(100 * held.mean(), 100 * found.low, 100 * found.high, n)
        yield _model(f"{name}_covered_percent", covered, "%", about, "intervals that hold")


def _predicted(row: pd.Series, scale: float) -> Estimate:
    value, low, high = (scale * row[f"{name}_ns"] for name in ("time", "low", "high"))
    return Estimate(value, low, high, "predicted")


def _large_guests() -> Numbers:
    """Touched idle guests of tens of TiB, by costs fitted to the shipped runs."""
    found = [predict(memory="16TiB", protocol=["pfn", "bitmap-v4"], extrapolate=True)]
    found += [predict(memory="64TiB", protocol="bitmap-v4", extrapolate=True)]
    totals = pd.concat(one.totals for one in found).set_index(["protocol", "memory_bytes"])
    for size, protocol, unit in (
        ("16TiB", "pfn", "hours"),
        ("16TiB", "bitmap-v4", "minutes"),
        ("64TiB", "bitmap-v4", "minutes"),
    ):
        value = _predicted(totals.loc[(protocol, parse_size(size))], 1 / UNITS_NS[unit])
        name = f"model_{size.lower()}_{SHORT[protocol]}_{unit}"
        yield _model(name, value, unit, f"touched idle guest of {size}", protocol)
    for protocol in ("pfn", "bitmap-v4"):
        n_bytes = counts("idle", protocol, memory="16TiB")["wire_bytes"]
        name, about = f"idle_16tib_{SHORT[protocol]}_bytes", "counted, idle guest of 16TiB"
        yield number("model", "", name, n_bytes, "bytes", about, protocol)


PAPER_KICK_NS = 393_000
"""What a kick of the paper takes: 68.3 % of 4126 ms by 7,168 kicks."""


def _what_if() -> Numbers:
    """7 of 8 GiB untouched, were a kick as dear as the paper's."""
    asked = predict(
        memory="8GiB", balloon="7GiB", protocol=["pfn", "bitmap-v4"], touched=False,
        costs={"kick": PAPER_KICK_NS}, extrapolate=True,
    )  # fmt: skip
    for _, row in asked.totals.iterrows():
        protocol, given_ms = row["protocol"], row["given_ns"] / 1e6
        name = f"what_if_{SHORT[protocol]}"
        about = f"7 of 8 GiB untouched by {protocol}, a kick of 393 us"
        whole = _predicted(row, 1e-6)
        value, low, high = (one - given_ms for one in whole[:3])
        rest = Estimate(value, low, high, whole.interval)
        yield _model(f"{name}_ms", whole, "ms", about)
        yield number("model", "model", f"{name}_given_ms", given_ms, "ms", about, "given")
        yield _model(f"{name}_rest_ms", rest, "ms", about, "fitted")


def _words() -> Numbers:
    """Half of a guest's pages: how full the words of its bitmap are."""
    sets = {name: patterns.make(name, "1GiB", "512MiB") for name in ("random", "aged")}
    for row in metrics.summary(sets).to_dict("records"):
        name, about = f"words_{row['name']}", f"half of 1 GiB, {row['name']}"
        mixed, full = (100 * row[f"{share}_share"] for share in ("mixed_words", "pages_in_full"))
        yield number(
            "model", "", f"{name}_mixed_percent", mixed, "%", "words that are mixed", about
        )
        yield number("model", "", f"{name}_full_percent", full, "%", "pages in full words", about)
        yield number(
            "model", "", f"{name}_run_pages", row["mean_run_pages"], "pages", "mean run", about
        )


PARTS = (_errors, _large_guests, _what_if, _words)
