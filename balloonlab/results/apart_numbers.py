"""Ratios as intervals, to two digits, and how many of them are not told apart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pandas as pd

from .. import datasets
from ..ladder import policy_times
from ..measurement.ratio import ratio_of, ratios
from ..measurement.reading import load
from ..reproduction.reproduction import PROTOCOLS
from .number import STATES, Numbers, number

BULK = {"headline": "lab", "kvm": "kvm", "linux": "linux", "qemu": "qemu"}


def _ends(source: str, data: str, name: str, low: float, high: float, about: str) -> Numbers:
    """Yield both ends of an interval; prose has them as "{low} to {high}"."""
    for end, value, unit in (("low", low, ""), ("high", high, "times")):
        rounded = float(f"{value:.2g}")
        yield number(source, data, f"{name}_{end}", rounded, unit, about, f"interval, {end} end")


def _over_bitmap(data: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield pfn over bitmap-v4 of the plain cases of a sweep, by what differs in it."""
    frame = load(datasets.path(data)).frame
    frame = frame[(frame["discard"] == "page") == (frame["protocol"] == "pfn")]
    for touched, thp in product((False, True), repeat=2):
        rows = frame[(frame["touched"] == touched) & (frame["thp"] == thp)]
        if len(rows):
            by = ["memory_bytes", "balloon_bytes", "pattern"]
            state = f"{STATES[touched]}{'_thp' if thp else ''}"
            yield state, ratios(rows, over="bitmap-v4", by=by)


def _sweeps() -> Numbers:
    """Ratios by run length, by density and, over all sizes, by memory."""
    for _, table in _over_bitmap("runs"):
        for row in table.itertuples():
            name, about = (
                f"runs_{row.pattern.partition(':')[2]}",
                f"pfn over bitmap-v4, {row.pattern}",
            )
            yield from _ends("lab", "runs", name, row.low, row.high, about)
    for _, table in _over_bitmap("density"):
        for row in table.itertuples():
            percent = round(100 * row.balloon_bytes / row.memory_bytes)
            about = f"pfn over bitmap-v4, {percent} % at random"
            yield from _ends("lab", "density", f"density_{percent}", row.low, row.high, about)
    for state, table in _over_bitmap("sizes"):
        about = f"pfn over bitmap-v4, all sizes, {state}"
        ends = table["low"].min(), table["high"].max()
        yield from _ends("lab", "sizes", f"sizes_{state}_ratio", *ends, about)


def _guests() -> Numbers:
    """Real guests: which ratios overlap with the largest one."""
    ((_, table),) = _over_bitmap("guests")
    alike = table[table["high"] >= table.loc[table["ratio"].idxmax(), "low"]]
    for row in table.itertuples():
        state = row.pattern.removeprefix("trace:").partition("-")[0]
        about = f"pfn over bitmap-v4, {row.pattern}"
        yield from _ends("lab", "guests", f"guests_{state}", row.low, row.high, about)
    means = "states whose ratio is not told apart from the largest"
    yield number("lab", "guests", "guests_states", len(table), "", "states of guests, 4 GiB")
    yield number("lab", "guests", "guests_alike", len(alike), "", means)
    ends = alike["low"].min(), alike["high"].max()
    yield from _ends("lab", "guests", "guests_alike", *ends, f"pfn over bitmap-v4, {means}")


def _headlines() -> Numbers:
    for data, source in BULK.items():
        frame = load(datasets.path(data)).frame
        for (touched, state), bulk in product(STATES.items(), PROTOCOLS[source][1:2]):
            rows = frame[frame["touched"] == touched]
            repeats = rows.groupby(["protocol", "repeat"])
            ns = repeats["time_ns"].sum() / repeats["n_pages"].first()
            _, low, high, _, _ = ratio_of(ns["pfn"].to_numpy(), ns[bulk].to_numpy())
            about = f"7 of 8 GiB, {state}, pfn over {bulk}"
            yield from _ends(source, data, f"{data}_{state}_ratio", low, high, about)


def _policies() -> Numbers:
    """Gains of each host policy, over all kinds of guests that were measured."""
    table = policy_times(load(datasets.path("policies")))
    table = table[~table["policy"].isin(["qemu", "cloud-hypervisor"])]  # what others are over
    for (name, source), rows in table.groupby(["policy", "source"], sort=False):
        short = f"policies_{str(name).replace('-', '_')}_{source}"
        about = f"{name} over a call per page, kinds of guests: {len(rows)}"
        ends = rows["low"].min(), rows["high"].max()
        yield from _ends(str(source), "policies", short, *ends, about)


PARTS = (_sweeps, _guests, _headlines, _policies)
