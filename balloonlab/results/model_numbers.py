"""Numbers of models: predictions with their error, synthetic page sets."""

from __future__ import annotations

from functools import partial

import pandas as pd

from ..model import counts, predict, summary, validated
from ..pages import metrics, patterns
from ..sizes import parse_size
from .number import SHORT, Numbers, number

_model = partial(number, "model")

UNITS_NS = {"hours": 3.6e12, "minutes": 6e10}


LEFT_OUT = {"memory_bytes": "sizes", "pattern": "patterns", "run": "runs", "traces": "traces"}


def _errors() -> Numbers:
    """How well cases are predicted that were left out of the fit."""
    checked = validated()
    for by, what in LEFT_OUT.items():
        found = summary(checked[checked["left_out"] == by]).iloc[0]
        about = f"{what} left out"
        for name, column in (
            ("error", "median_error_percent"), ("error_p90", "error_p90_percent"),
            ("covered", "covered_percent"),
        ):  # fmt: skip
            yield _model("model", f"model_{what}_{name}_percent", found[column], "%", about)


def _large_guests() -> Numbers:
    """Touched idle guests of tens of TiB, by costs fitted to the shipped runs."""
    found = [predict(memory="16TiB", protocol=["pfn", "bitmap-v4"], extrapolate=True)]
    found += [predict(memory="64TiB", protocol="bitmap-v4", extrapolate=True)]
    totals = pd.concat(one.totals for one in found)
    time_ns = totals.set_index(["protocol", "memory_bytes"])["time_ns"]
    for size, protocol, unit in (
        ("16TiB", "pfn", "hours"),
        ("16TiB", "bitmap-v4", "minutes"),
        ("64TiB", "bitmap-v4", "minutes"),
    ):
        value = time_ns[protocol, parse_size(size)] / UNITS_NS[unit]
        name = f"model_{size.lower()}_{SHORT[protocol]}_{unit}"
        yield _model("model", name, value, unit, f"touched idle guest of {size}", protocol)
    for protocol in ("pfn", "bitmap-v4"):
        n_bytes = counts("idle", protocol, memory="16TiB")["wire_bytes"]
        name = f"idle_16tib_{SHORT[protocol]}_bytes"
        yield _model("", name, n_bytes, "bytes", "counted, idle guest of 16TiB", protocol)


PAPER_KICK_NS = 393_000
"""What a kick of the paper takes: 68.3 % of 4126 ms by 7,168 kicks."""


def _what_if() -> Numbers:
    """7 of 8 GiB untouched, were a kick as dear as the paper's."""
    asked = predict(
        memory="8GiB", balloon="7GiB", protocol=["pfn", "bitmap-v4"], touched=False,
        costs={"kick": PAPER_KICK_NS}, extrapolate=True,
    )  # fmt: skip
    for _, row in asked.totals.iterrows():
        protocol = row["protocol"]
        name = f"what_if_{SHORT[protocol]}"
        about = f"7 of 8 GiB untouched by {protocol}, a kick of 393 us"
        values = {"ms": row["time_ns"], "low_ms": row["low_ns"], "high_ms": row["high_ns"]}
        values |= {"given_ms": row["given_ns"], "rest_ms": row["time_ns"] - row["given_ns"]}
        for end, ns in values.items():
            yield _model("model", f"{name}_{end}", ns / 1e6, "ms", about, end)


def _words() -> Numbers:
    """Half of a guest's pages: how full the words of its bitmap are."""
    sets = {name: patterns.make(name, "2GiB", "1GiB") for name in ("random", "aged")}
    for row in metrics.summary(sets).to_dict("records"):
        name, about = f"words_{row['name']}", f"half of 2GiB, {row['name']}"
        mixed, full = (100 * row[f"{share}_share"] for share in ("mixed_words", "pages_in_full"))
        yield _model("", f"{name}_mixed_percent", mixed, "%", "words that are mixed", about)
        yield _model("", f"{name}_full_percent", full, "%", "pages in full words", about)
        yield _model("", f"{name}_run_pages", row["mean_run_pages"], "pages", "mean run", about)


PARTS = (_errors, _large_guests, _what_if, _words)
