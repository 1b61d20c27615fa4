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
from .number import SHORT, STATES, Named, number

_lab = partial(number, "lab")


def numbers() -> Named:
    """Compute what the sweeps found: by size, run length and density; message and discard apart."""
    for part in (_sizes, _runs, _density, _cases, _grid):
        yield from part()


def median_ms(frame: pd.DataFrame, **case: object) -> float:
    """Return the median total of a case's repeats.

    Parameters
    ----------
    frame : pandas.DataFrame
        The tidy frame.
    **case
        Columns and their values, which one case must have.

    Raises
    ------
    ValueError
        No case has them, or several.
    """
    rows = frame[(frame[list(case)] == pd.Series(case)).all(axis="columns")]
    n_cases = len(rows["run_id"].unique())
    if n_cases != 1:
        raise ValueError(f"frame must hold one case with {case}, got {n_cases}")
    return float(rows.groupby("repeat")["time_ns"].sum().median() / 1e6)


def both_ms(frame: pd.DataFrame, **case: object) -> dict[str, float]:
    """Return the median total of ``pfn`` and of ``bitmap-v4`` in one case."""
    return {name: median_ms(frame, protocol=name, **case) for name in ("pfn", "bitmap-v4")}


def _sizes() -> Named:
    frame = load(datasets.path("sizes")).frame
    memories = sorted(frame["memory_bytes"].unique())
    for thp, (touched, state) in product((False, True), STATES.items()):
        prefix = f"sizes_{state}_{'thp_' if thp else ''}"
        means = f"idle, {state}, {'huge pages' if thp else 'no huge pages'}"
        case = {"touched": touched, "thp": thp}
        ms = pd.DataFrame(
            [both_ms(frame, memory_bytes=size, **case) for size in memories], memories
        )
        pages = np.array(memories) * 7 / 8 / PAGE_BYTES
        for protocol, times in ms.items():
            ns = 1e6 * times / pages
            name, about = f"{prefix}{SHORT[str(protocol)]}", (means, f"per page, {protocol}")
            yield f"{name}_least_ns", _lab("sizes", ns.min(), "ns", *about)
            yield f"{name}_most_ns", _lab("sizes", ns.max(), "ns", *about)
            power = np.polyfit(np.log(pages), np.log(times), 1)[0]
            yield f"{name}_power", _lab("sizes", power, "", means, f"time ~ memory^, {protocol}")
        for size, ratio in (ms["pfn"] / ms["bitmap-v4"]).items():
            gib = size // GIB
            about = (means, f"pfn over bitmap-v4, {gib} GiB")
            yield f"{prefix}{gib}gib_ratio", _lab("sizes", ratio, "times", *about)


def _runs() -> Named:
    frame = load(datasets.path("runs")).frame
    for mean in sorted(int(pattern.partition(":")[2]) for pattern in frame["pattern"].unique()):
        yield from _pair("runs", frame, f"runs_{mean}", pattern=f"geometric:{mean}")


def _density() -> Named:
    frame = load(datasets.path("density")).frame
    for size in sorted(frame["balloon_bytes"].unique()):
        case = frame[frame["balloon_bytes"] == size]
        percent = round(100 * size / case["memory_bytes"].iloc[0])
        name = f"density_{percent}"
        yield from _pair("density", case, name, pattern="random", balloon_bytes=size)


def _cases() -> Named:
    """Count the cases of run length and density in which the bitmap is ahead."""
    frame = pd.concat([load(datasets.path(data)).frame for data in ("runs", "density")])
    case = ["pattern", "balloon_bytes", "protocol"]
    ms = totals(frame).set_index(case).sort_index()
    old, new = (ms.xs(protocol, level="protocol") for protocol in ("pfn", "bitmap-v4"))
    n_bytes = frame.groupby(case)["wire_bytes"].first()
    old_bytes, new_bytes = (n_bytes.xs(name, level="protocol") for name in ("pfn", "bitmap-v4"))
    for name, ahead, means in (
        ("cases", old["median_ms"] > 0, "cases of run length and density"),
        ("cases_faster", new["median_ms"] < old["median_ms"], "bitmap-v4 faster by the median"),
        ("cases_always_faster", new["max_ms"] < old["min_ms"], "bitmap-v4 faster in all repeats"),
        ("cases_shorter", new_bytes < old_bytes, "bitmap-v4's message shorter"),
    ):
        yield name, _lab("runs", ahead.sum(), "", means)


def _pair(data: str, frame: pd.DataFrame, name: str, **case: object) -> Named:
    """Both protocols on one touched page set, and their ratio."""
    means = ", ".join(f"{column} {value}" for column, value in case.items())
    ms = both_ms(frame, **case)
    for protocol, time_ms in ms.items():
        yield f"{name}_{SHORT[protocol]}_ms", _lab(data, time_ms, "ms", means, protocol)
    ratio = ms["pfn"] / ms["bitmap-v4"]
    yield f"{name}_ratio", _lab(data, ratio, "times", means, "pfn over bitmap-v4")


def _grid() -> Named:
    frame = load(datasets.path("patterns")).frame
    for pattern, (touched, state) in product(sorted(set(frame["pattern"])), STATES.items()):
        name, about = f"grid_{pattern.replace(':', '_')}_{state}", f"{pattern}, {state}"
        case = {"pattern": pattern, "touched": touched}
        ms = {
            pair: median_ms(frame, protocol=pair[0], discard=pair[1], **case)
            for pair in product(("pfn", "bitmap-v4"), ("page", "range"))
        }
        old, new = ms["pfn", "page"], ms["bitmap-v4", "range"]
        # The mean of both orders: the message first, or the message last.
        first, last = old - ms["bitmap-v4", "page"], ms["pfn", "range"] - new
        part = 100 * (first + last) / 2 / (old - new)
        yield f"{name}_part_percent", _lab("patterns", part, "%", "the message's part", about)
        yield f"{name}_gain", _lab("patterns", old / new, "times", "pfn over bitmap-v4", about)
        for what, pair in (
            ("message", ("bitmap-v4", "page")),
            ("range", ("pfn", "range")),
            ("both", ("bitmap-v4", "range")),
        ):
            saved = 100 * (1 - ms[pair] / old)
            means = f"of pfn by page saved by {pair[0]} by {pair[1]}"
            yield f"{name}_{what}_percent", _lab("patterns", saved, "%", means, about)
