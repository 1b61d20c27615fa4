"""Numbers of the stored sweeps: by memory size, by fragmentation, message and discard apart."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from .. import datasets
from ..measurement.reading import load
from ..measurement.run import totals
from ..sizes import GIB, PAGE_BYTES
from .number import SHORT, STATES, Numbers, number

_lab = partial(number, "lab")


def median_ms(frame: pd.DataFrame, **case: object) -> float:
    """Return the median total of the repeats of the one case with these values of columns."""
    rows = frame[(frame[list(case)] == pd.Series(case)).all(axis="columns")]
    n_cases = len(rows["run_id"].unique())
    if n_cases != 1:
        raise ValueError(f"frame must hold one case with {case}, got {n_cases}")
    return float(rows.groupby("repeat")["time_ns"].sum().median() / 1e6)


def both_ms(frame: pd.DataFrame, **case: object) -> dict[str, float]:
    """Return the median total of ``pfn`` and of ``bitmap-v4`` in one case."""
    return {name: median_ms(frame, protocol=name, **case) for name in ("pfn", "bitmap-v4")}


def _sizes() -> Numbers:
    frame = load(datasets.path("sizes")).frame
    memories = sorted(frame["memory_bytes"].unique())
    for thp, (touched, state) in product((False, True), STATES.items()):
        prefix = f"sizes_{state}_{'thp_' if thp else ''}"
        means = f"idle, {state}, {'huge pages' if thp else 'no huge pages'}"
        case = {"touched": touched, "thp": thp}
        rows = [both_ms(frame, memory_bytes=size, **case) for size in memories]
        ms = pd.DataFrame(rows, memories)
        pages = np.array(memories) * 7 / 8 / PAGE_BYTES
        for protocol, times in ms.items():
            ns = 1e6 * times / pages
            name = f"{prefix}{SHORT[str(protocol)]}"
            for end, value in (("least", ns.min()), ("most", ns.max())):
                yield _lab("sizes", f"{name}_{end}_ns", value, "ns", means, "per page", protocol)
            power = np.polyfit(np.log(pages), np.log(times), 1)[0]
            yield _lab("sizes", f"{name}_power", power, "", means, f"time ~ memory^, {protocol}")
        for size, ratio in (ms["pfn"] / ms["bitmap-v4"]).items():
            gib, about = size // GIB, (means, "pfn over bitmap-v4")
            yield _lab("sizes", f"{prefix}{gib}gib_ratio", ratio, "times", *about, f"{gib} GiB")


def _runs() -> Numbers:
    frame = load(datasets.path("runs")).frame
    for mean in sorted(int(pattern.partition(":")[2]) for pattern in frame["pattern"].unique()):
        yield from _pair("runs", frame, f"runs_{mean}", pattern=f"geometric:{mean}")


def _density() -> Numbers:
    frame = load(datasets.path("density")).frame
    for size, case in frame.groupby("balloon_bytes"):
        name = f"density_{round(100 * size / case['memory_bytes'].iloc[0])}"
        yield from _pair("density", case, name, pattern="random", balloon_bytes=size)


def _cases() -> Numbers:
    """Count the cases of run length and density in which the bitmap is ahead."""
    frame = pd.concat([load(datasets.path(data)).frame for data in ("runs", "density")])
    case = ["pattern", "balloon_bytes", "protocol"]
    table = totals(frame).set_index(case).join(frame.groupby(case)["wire_bytes"].first())
    old, new = (table.xs(name, level="protocol").sort_index() for name in ("pfn", "bitmap-v4"))
    for name, ahead, means in (
        ("cases", old["median_ms"] > 0, "cases of run length and density"),
        ("cases_faster", new["median_ms"] < old["median_ms"], "bitmap-v4 faster by the median"),
        ("cases_always_faster", new["max_ms"] < old["min_ms"], "bitmap-v4 faster in all repeats"),
        ("cases_shorter", new["wire_bytes"] < old["wire_bytes"], "bitmap-v4's message shorter"),
    ):
        yield _lab("runs", name, ahead.sum(), "", means)


def _pair(data: str, frame: pd.DataFrame, name: str, **case: object) -> Numbers:
    """Both protocols on one touched page set, and their ratio."""
    means = ", ".join(f"{column} {value}" for column, value in case.items())
    ms = both_ms(frame, **case)
    for protocol, time_ms in ms.items():
        yield _lab(data, f"{name}_{SHORT[protocol]}_ms", time_ms, "ms", means, protocol)
    ratio = ms["pfn"] / ms["bitmap-v4"]
    yield _lab(data, f"{name}_ratio", ratio, "times", means, "pfn over bitmap-v4")


def _grid() -> Numbers:
    frame = load(datasets.path("patterns")).frame
    for pattern, (touched, state) in product(sorted(set(frame["pattern"])), STATES.items()):
        name, about = f"grid_{pattern.replace(':', '_')}_{state}", f"{pattern}, {state}"
        case = {"pattern": pattern, "touched": touched}
        old, ranges, message, both = (
            median_ms(frame, protocol=protocol, discard=discard, **case)
            for protocol, discard in product(("pfn", "bitmap-v4"), ("page", "range"))
        )
        # The mean of both orders: the message first, or the message last.
        part = 100 * ((old - message) + (ranges - both)) / 2 / (old - both)
        yield _lab("patterns", f"{name}_part_percent", part, "%", "the message's part", about)
        yield _lab("patterns", f"{name}_gain", old / both, "times", "pfn over bitmap-v4", about)
        for what, ms, by in (
            ("message", message, "bitmap-v4 by page"),
            ("range", ranges, "pfn by range"),
            ("both", both, "bitmap-v4 by range"),
        ):
            saved, means = 100 * (1 - ms / old), f"of pfn by page saved by {by}"
            yield _lab("patterns", f"{name}_{what}_percent", saved, "%", means, about)


PARTS = (_sizes, _runs, _density, _cases, _grid)
