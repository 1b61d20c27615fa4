"""Numbers of models: predictions with their error, synthetic page sets."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .. import datasets
from ..measurement.reading import load
from ..model import fit, idle_guests, validate
from ..model.accounting import idle_counts
from ..pages import metrics, patterns
from ..sizes import GIB, parse_size
from .number import SHORT, Named, number

_model = partial(number, "model")

HOUR_NS, MINUTE_NS = 3.6e12, 6e10


def numbers() -> Named:
    """Compute what large guests are predicted to take, and how full words of patterns are."""
    for part in (_large_guests, _words):
        yield from part()


def _large_guests() -> Named:
    """Touched idle guests of tens of TiB, by costs fitted to the stored sizes."""
    frame = load(datasets.path("sizes")).frame
    small = frame["memory_bytes"] <= 2 * GIB
    left_out = [validate(frame, by="memory_bytes"), fit(frame[small]).compare(frame[~small])]
    ratio = pd.concat(left_out).query("touched and not thp")["ratio"]
    error = 100 * (ratio - 1).abs()
    yield "model_error_median_percent", _model("sizes", error.median(), "%", "sizes left out")
    yield "model_error_most_percent", _model("sizes", error.max(), "%", "sizes left out")
    predicted = idle_guests(fit(frame), ["16TiB", "64TiB"])
    time_ns = predicted.groupby(["protocol", "memory_bytes"])["time_ns"].sum()
    for size, protocol, unit, unit_ns in (
        ("16TiB", "pfn", "hours", HOUR_NS),
        ("16TiB", "bitmap-v4", "minutes", MINUTE_NS),
        ("64TiB", "bitmap-v4", "minutes", MINUTE_NS),
    ):
        value = time_ns[protocol, parse_size(size)] / unit_ns
        name = f"model_{size.lower()}_{SHORT[protocol]}_{unit}"
        yield name, _model("sizes", value, unit, f"touched idle guest of {size}", protocol)
    for protocol in ("pfn", "bitmap-v4"):
        n_bytes = idle_counts("16TiB", protocol)["wire_bytes"]
        name = f"idle_16tib_{SHORT[protocol]}_bytes"
        yield name, _model("", n_bytes, "bytes", "counted, idle guest of 16TiB", protocol)


def _words() -> Named:
    """Half of a guest's pages: how full the words of its bitmap are."""
    sets = {name: patterns.make(name, "2GiB", "1GiB") for name in ("random", "aged")}
    for row in metrics.summary(sets).to_dict("records"):
        name, about = f"words_{row['name']}", f"half of 2GiB, {row['name']}"
        mixed, full = (100 * row[f"{share}_share"] for share in ("mixed_words", "pages_in_full"))
        yield f"{name}_mixed_percent", _model("", mixed, "%", "words that are mixed", about)
        yield f"{name}_full_percent", _model("", full, "%", "pages in full words", about)
        run = row["mean_run_pages"]
        yield f"{name}_run_pages", _model("", run, "pages", "mean run", about)
