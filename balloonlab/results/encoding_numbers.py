"""Numbers of the encodings: who is shortest, who is fastest, and by how much."""

from __future__ import annotations

import pandas as pd

from .. import datasets
from ..harness.crossover import PROPOSED, best, compared, excess
from ..measurement.estimates import Estimate
from ..measurement.reading import load
from ..measurement.starts import unit_of
from ..pages.traces import NATIVE, PREFIX
from .number import STATES, Numbers, Starts, estimated, number

BITMAPS = ("bitmap-v3", "bitmap-v4", "bitmap-v4-wide")
SLACK_BYTES = 64


def stored(folder: str) -> pd.DataFrame:
    """Return a stored table of encodings, of several process starts the medians."""
    table = pd.read_csv(datasets.path(f"{folder}/encodings.csv"))
    if "start" not in table:
        return table
    by = ["pattern", "memory_bytes", "order", "protocol"]
    return table.drop(columns="start").groupby(by, sort=False).median().reset_index()


def recorded() -> pd.DataFrame:
    """Return the bytes of every format for each recorded inflation.

    A row per trace and order: ``pattern``, ``order``, ``kernel`` (``pc`` or ``native``), a column
    per protocol, ``best`` (of those that were proposed to the list).
    """
    rows = stored("encodings-traces")
    table = rows.pivot_table(index=["pattern", "order"], columns="protocol", values="wire_bytes")
    table["best"] = table[list(PROPOSED)].idxmin(axis=1)
    table = table.reset_index()
    native = table["pattern"].str.startswith(PREFIX + NATIVE)
    return table.assign(kernel=native.map({True: "native", False: "pc"}))


def _recorded() -> Numbers:
    of = ("trace", "encodings-traces")
    table = recorded()
    for order, rows in table.groupby("order"):
        about = f"recorded inflations, pages {order}"
        n = len(rows)
        yield number(*of, f"encodings_traces_{order}_n", n, "", about)
        groups = {"bitmaps": BITMAPS, "v4": ("bitmap-v4",), "pfn": ("pfn",)}
        groups["runs"] = tuple(name for name in PROPOSED if name not in (*BITMAPS, "pfn"))
        for name, protocols in groups.items():
            won = 100 * rows["best"].isin(protocols).sum() / n
            shortest = f"where one of {', '.join(protocols)} is shortest"
            yield number(*of, f"encodings_traces_{order}_{name}_percent", won, "%", about, shortest)
        for name in ("pfn", "bitmap-v4", "cont-pages", "adaptive"):
            key = name.replace("-", "_")
            ratio = (rows[name] / rows["bound"]).median()
            means = "median ratio to the bytes of the bound"
            yield number(*of, f"encodings_traces_{order}_{key}_over", ratio, "", about, means)
        others = rows[[*PROPOSED]].min(axis=1)
        held = 100 * (rows["adaptive"] <= 1.05 * others + SLACK_BYTES).mean()
        means = "where adaptive is within 5 % and 64 bytes of the shortest"
        yield number(*of, f"encodings_traces_{order}_adaptive_held", held, "%", about, means)
        saved = 100 * (1 - (rows["adaptive"] / others).median())
        yield number(*of, f"encodings_traces_{order}_adaptive_saves", saved, "%", about, "median")


def _kernels() -> Numbers:
    table = pd.read_csv(datasets.path("encodings/encodings.csv")).dropna(subset=["encode_ns"])
    starts = Starts(table)
    for pattern, order in (("idle", "list"), ("random", "sorted")):
        mine = table[(table["pattern"] == pattern) & (table["order"] == order)]
        for protocol, rows in mine.groupby("protocol", sort=False):
            name = f"encodings_{pattern}_{protocol.replace('-', '_')}"
            about = f"{pattern}, half of 256 MiB, {protocol}"
            for side in ("encode", "decode"):
                ns, key = starts.middle(rows[f"{side}_ns"] / rows["n_pages"]), f"{name}_{side}_ns"
                yield estimated("lab", "encodings", key, ns, "ns", about, "per page")


def _crossover() -> Numbers:
    frame = load(datasets.path("crossover")).frame
    for (source, touched), rows in frame.groupby(["source", "touched"]):
        cells = best(rows)
        name, about = f"crossover_{source}_{STATES[touched]}", f"{len(cells)} cells, 64 MiB"
        alike = cells["alike"].map(len)
        yield number(source, "crossover", f"{name}_cells", len(cells), "", about)
        bitmaps = cells["best"].isin(BITMAPS) & ~cells["alike"].map(
            lambda names: any(one not in BITMAPS for one in names)
        )
        counts = {
            "apart": cells["apart"].sum(),
            "bitmaps": bitmaps.sum(),
            "alike": alike.median(),
            "pfn": cells["alike"].map(lambda names: "pfn" in names).sum(),
        }
        for kind, value in counts.items():
            yield number(source, "crossover", f"{name}_{kind}", value, "", about, kind)


def _compared() -> Numbers:
    frame = load(datasets.path("crossover")).frame
    for protocol in ("adaptive", "pfn"):
        table = compared(frame, protocol)
        for source, rows in table.groupby("source"):
            worst = rows.loc[rows["ratio"].idxmax()]
            name = f"crossover_{source}_{protocol}"
            about = f"{protocol} over {worst['other']}, which is fastest by it"
            ratio = Estimate(
                worst["ratio"], worst["low"], worst["high"], f"95 % of {worst['n_cells']} cells"
            )
            yield estimated(source, "crossover", f"{name}_ratio", ratio, "times", about)


def _own_work() -> Numbers:
    """Give what adaptive's own work adds to an inflation, in the middle of all cells of a start."""
    frame = load(datasets.path("crossover")).frame
    starts, by_start = Starts(frame), frame.groupby(unit_of(frame))
    found = pd.concat(
        {start: excess(rows).groupby("source")["excess"].median() for start, rows in by_start}
    )
    for source, share in found.groupby(level="source"):
        about = "adaptive's own work above the least, of the inflation", "median of the cells"
        name = f"crossover_{source}_adaptive_excess_percent"
        yield estimated(source, "crossover", name, starts.middle(share, 100), "%", *about)


def _zero() -> Numbers:
    """Give pages that come back zero, told or not, in ns per page."""
    frame = pd.read_csv(datasets.path("zero-pages/zero-pages.csv"))
    frame["whole_ns"] = frame["ready_ns"] + frame["use_ns"]
    names, key = ["answer_ns", "ready_ns", "use_ns", "whole_ns"], ["zero_share", "answer"]
    frame[names] = frame[names].div(frame["n_pages"], axis=0)
    starts = Starts(frame)
    for (zero_share, answered), rows in starts.medians(key).groupby(level=key):
        share, told = round(100 * zero_share), "told" if answered else "untold"
        about = f"{share} % of the pages zero already, {told}"
        for name in names:
            ns, means = starts.middle(rows[name]), f"{name.removesuffix('_ns')}, per page"
            number_name = f"zero_{share}_{told}_{name}"
            yield estimated("lab", "zero-pages", number_name, ns, "ns", about, means)


PARTS = (_recorded, _kernels, _crossover, _compared, _own_work, _zero)
