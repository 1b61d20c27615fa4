"""Numbers of the stored sweeps: by memory size, by fragmentation, message and discard apart."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from .. import datasets
from ..measurement.estimates import Array, spanning
from ..measurement.reading import load
from ..sizes import GIB, format_size
from .number import SHORT, STATES, Numbers, Starts, estimated, number

_lab = partial(estimated, "lab")


BOTH = ("pfn", "bitmap-v4")


def _times(data: str, *by: str) -> tuple[Starts, pd.Series]:
    """Return ns per page of each start, by these columns and the protocol, and the starts."""
    frame = load(datasets.path(data)).frame
    frame["time_ns"] = frame["time_ns"] / frame["n_pages"]
    starts = Starts(frame)
    return starts, starts.times([*by, "protocol"])


def _by_protocol(ns: pd.Series) -> pd.DataFrame:
    """Return a column per protocol."""
    return pd.DataFrame({name: ns.xs(name, level="protocol") for name in BOTH})


def _sizes() -> Numbers:
    starts, ns = _times("sizes", "thp", "touched", "memory_bytes")
    most = ns.index.get_level_values("memory_bytes").max() / GIB
    yield number("lab", "sizes", "sizes_most_gib", most, "GiB", "the largest guest of sizes")
    for thp, (touched, state) in product((False, True), STATES.items()):
        prefix = f"sizes_{state}_{'thp_' if thp else ''}"
        means = f"idle, {state}, {'huge pages' if thp else 'no huge pages'}"
        table = _by_protocol(ns[thp, touched])
        for protocol in BOTH:
            page, name = spanning(table[protocol].map(starts.middle)), f"{prefix}{SHORT[protocol]}"
            yield _lab("sizes", f"{name}_ns", page, "ns", means, "per page, all sizes", protocol)
            power = starts.estimate(
                [*table[protocol]], partial(_power, table.index.to_numpy(float))
            )
            about = f"time ~ memory^, {protocol}"
            yield _lab("sizes", f"{name}_power", power, "", means, about)
        ratios = {size: starts.over(row["pfn"], row["bitmap-v4"]) for size, row in table.iterrows()}
        of = means, "pfn over bitmap-v4"
        for size, ratio in ratios.items():
            name = f"{prefix}{size // GIB}gib_ratio"
            yield _lab("sizes", name, ratio, "times", *of, f"{size // GIB} GiB")
        whole = spanning(ratios.values())
        yield _lab("sizes", f"{prefix}ratio", whole, "times", *of, "all sizes")


def _power(sizes: Array, *page_ns: Array) -> Array:
    """Return the power of memory that time grows with, by least squares of the logarithms."""
    x = np.log(sizes) - np.log(sizes).mean()
    y = np.stack(np.broadcast_arrays(*page_ns), axis=-1)
    slope: Array = 1 + (np.log(y) @ x) / (x @ x)
    return slope


def _runs() -> Numbers:
    starts, ns = _times("runs", "pattern")
    for pattern in sorted(set(ns.index.get_level_values("pattern"))):
        name = f"runs_{pattern.partition(':')[2]}"
        yield from _pair("runs", name, starts, ns[pattern], f"half of the guest, {pattern}")


def _density() -> Numbers:
    starts, ns = _times("density", "memory_bytes", "balloon_bytes")
    for memory, size in sorted(set(ns.index.droplevel("protocol"))):
        percent = round(100 * size / memory)
        about = f"{percent} % of {format_size(memory)} at random"
        yield from _pair("density", f"density_{percent}", starts, ns[memory, size], about)


def _cases() -> Numbers:
    """Count the cases of run length and density in which the bitmap is ahead."""
    case = ["pattern", "balloon_bytes", "protocol"]
    frame = pd.concat([load(datasets.path(data)).frame for data in ("runs", "density")])
    starts = Starts(frame)
    ns, n_bytes = _by_protocol(starts.times(case)), frame.groupby(case)["wire_bytes"].first()
    ratios = [starts.over(row["pfn"], row["bitmap-v4"]) for _, row in ns.iterrows()]
    shorter = n_bytes.xs("bitmap-v4", level="protocol") < n_bytes.xs("pfn", level="protocol")
    for name, count, means in (
        ("cases", len(ratios), "cases of run length and density"),
        ("cases_faster", sum(one.low > 1 for one in ratios), "bitmap-v4 faster, interval and all"),
        ("cases_shorter", shorter.sum(), "bitmap-v4's message shorter"),
    ):
        yield number("lab", "runs", name, count, "", means)


def _pair(data: str, name: str, starts: Starts, ns: pd.Series, about: str) -> Numbers:
    """Both protocols on one touched page set, and their ratio."""
    for protocol in BOTH:
        key = f"{name}_{SHORT[protocol]}_ns"
        yield _lab(data, key, starts.middle(ns[protocol]), "ns", about, "per page", protocol)
    ratio = starts.over(ns["pfn"], ns["bitmap-v4"])
    yield _lab(data, f"{name}_ratio", ratio, "times", about, "pfn over bitmap-v4")


def _grid() -> Numbers:
    """Tell the message and the discard apart: each of four ways to inflate the same pages."""
    starts, ns = _times("patterns", "pattern", "touched", "discard")
    patterns = sorted(set(ns.index.get_level_values("pattern")))
    for pattern, (touched, state) in product(patterns, STATES.items()):
        name, about = f"grid_{pattern.replace(':', '_')}_{state}", f"{pattern}, {state}"
        ways = product(BOTH, ("page", "range"))
        four = old, ranges, message, both = [
            ns[pattern, touched, discard, protocol] for protocol, discard in ways
        ]
        part = starts.estimate(four, _part)
        yield _lab("patterns", f"{name}_part_percent", part, "%", "the message's part", about)
        gain = starts.over(old, both)
        yield _lab("patterns", f"{name}_gain", gain, "times", "pfn over bitmap-v4", about)
        for what, times, by in (
            ("message", message, "bitmap-v4 by page"),
            ("range", ranges, "pfn by range"),
            ("both", both, "bitmap-v4 by range"),
        ):
            saved = starts.estimate([times, old], lambda new, old: 100 * (1 - new / old))
            means = f"of pfn by page saved by {by}", about
            yield _lab("patterns", f"{name}_{what}_percent", saved, "%", *means)


def _part(old: Array, ranges: Array, message: Array, both: Array) -> Array:
    """Return the message's part in per cent: the mean of both orders, it first, or it last."""
    part: Array = 100 * ((old - message) + (ranges - both)) / 2 / (old - both)
    return part


PARTS = (_sizes, _runs, _density, _cases, _grid)
