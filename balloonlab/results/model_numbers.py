"""Numbers of models: predictions with their error, synthetic page sets."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .. import datasets
from ..measurement.reading import load
from ..model import counts, fit, idle_guests, validate
from ..pages import metrics, patterns
from ..sizes import GIB, parse_size
from .number import SHORT, Numbers, number

_model = partial(number, "model")

UNITS_NS = {"hours": 3.6e12, "minutes": 6e10}


def _large_guests() -> Numbers:
    """Touched idle guests of tens of TiB, by costs fitted to the stored sizes."""
    frame = load(datasets.path("sizes")).frame
    small = frame["memory_bytes"] <= 2 * GIB
    left_out = [validate(frame, by="memory_bytes"), fit(frame[small]).compare(frame[~small])]
    ratio = pd.concat(left_out).query("touched and not thp")["ratio"]
    error = 100 * (ratio - 1).abs()
    for name, value in (("median", error.median()), ("most", error.max())):
        yield _model("sizes", f"model_error_{name}_percent", value, "%", "sizes left out")
    predicted = idle_guests(fit(frame), ["16TiB", "64TiB"])
    time_ns = predicted.groupby(["protocol", "memory_bytes"])["time_ns"].sum()
    for size, protocol, unit in (
        ("16TiB", "pfn", "hours"),
        ("16TiB", "bitmap-v4", "minutes"),
        ("64TiB", "bitmap-v4", "minutes"),
    ):
        value = time_ns[protocol, parse_size(size)] / UNITS_NS[unit]
        name = f"model_{size.lower()}_{SHORT[protocol]}_{unit}"
        yield _model("sizes", name, value, unit, f"touched idle guest of {size}", protocol)
    for protocol in ("pfn", "bitmap-v4"):
        n_bytes = counts("idle", protocol, memory="16TiB")["wire_bytes"]
        name = f"idle_16tib_{SHORT[protocol]}_bytes"
        yield _model("", name, n_bytes, "bytes", "counted, idle guest of 16TiB", protocol)


def _words() -> Numbers:
    """Half of a guest's pages: how full the words of its bitmap are."""
    sets = {name: patterns.make(name, "2GiB", "1GiB") for name in ("random", "aged")}
    for row in metrics.summary(sets).to_dict("records"):
        name, about = f"words_{row['name']}", f"half of 2GiB, {row['name']}"
        mixed, full = (100 * row[f"{share}_share"] for share in ("mixed_words", "pages_in_full"))
        yield _model("", f"{name}_mixed_percent", mixed, "%", "words that are mixed", about)
        yield _model("", f"{name}_full_percent", full, "%", "pages in full words", about)
        yield _model("", f"{name}_run_pages", row["mean_run_pages"], "pages", "mean run", about)


PARTS = (_large_guests, _words)
