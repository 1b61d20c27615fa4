"""What came out: the numbers that README and notebooks state, computed from ``data/``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd

from ..sizes import GIB, PAGE_BYTES
from .floor import PROTOCOL as FLOOR
from .numbers import Number
from .published import published
from .reproduction import Reproduction, median_repeat
from .shipped import shipped
from .store import load

Named = Iterator[tuple[str, Number]]

SHORT = {"pfn": "pfn", "bitmap-v4": "bitmap", FLOOR: "floor"}
"""Protocols in names of numbers."""

STATES = {True: "touched", False: "untouched"}


@cache
def results() -> dict[str, Number]:
    """Compute every number that prose states, by name.

    Returns
    -------
    dict of str to Number
    """
    return dict(
        pair
        for part in (_paper, _headline, _reliability, _contents, _sizes, _runs, _density, _grid)
        for pair in part()
    )


def median_ms(frame: pd.DataFrame, **case: object) -> float:
    """Take the median total of a case's repeats.

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


def _paper() -> Named:
    table = published()
    total = table.groupby("protocol")["time_ms"].sum()
    for protocol in ("pfn", "bitmap-v4"):
        name = f"paper_{SHORT[protocol]}_ms"
        yield name, _paper_number(total[protocol], "ms", f"7 of 8 GiB idle, {protocol}")
    saved = 100 * (1 - total["bitmap-v4"] / total["pfn"])
    yield "paper_saved_percent", _paper_number(saved, "%", "of the time of pfn, by bitmap-v4")
    for row in table[table["protocol"] == "pfn"].itertuples():
        share = 100 * row.time_ms / total["pfn"]
        yield f"paper_{row.stage}_percent", _paper_number(share, "%", f"{row.stage} of pfn")


def _paper_number(value: float, unit: str, means: str) -> Number:
    return Number(value, unit, "paper", "published.csv", means)


def _headline() -> Named:
    result = Reproduction.load(shipped("headline"))
    for touched, state in STATES.items():
        case = f"7 of 8 GiB, {state}"
        for protocol, short in SHORT.items():
            repeat = median_repeat(result.frame, protocol, touched)
            if repeat.empty:
                continue
            total = repeat["time_ns"].sum() / 1e6
            yield f"headline_{state}_{short}_ms", _lab("headline", total, "ms", case, protocol)
            if protocol != "pfn":
                continue
            for stage, time_ns in repeat.groupby("stage")["time_ns"].sum().items():
                share = 100 * time_ns / 1e6 / total
                name = f"headline_{state}_{stage}_percent"
                yield name, _lab("headline", share, "%", case, f"{stage} of pfn")
            for count in ("n_kicks", "n_discards"):
                yield f"headline_{state}_{count}", _lab("headline", repeat[count].iloc[0], "", case)
        ratio = result.ratio("pfn", "bitmap-v4", touched)
        assert ratio is not None
        means = "pfn over bitmap-v4"
        yield f"headline_{state}_ratio", _lab("headline", ratio, "times", case, means)
    over = result.ratio("bitmap-v4", FLOOR, True)
    assert over is not None
    yield "headline_over_floor", _lab("headline", over, "times", "bitmap-v4 over one madvise")


def _lab(data: str, value: float, unit: str, *means: str) -> Number:
    return Number(float(value), unit, "lab", data, ", ".join(means))


def _reliability() -> Named:
    rows = pd.read_csv(shipped("reliability/fuzz.csv"))
    counts = rows.groupby("finding")["count"].sum()
    for name, finding in (
        ("cases", "cases"),
        ("canaries_changed", "canary words changed"),
        ("discards_outside", "discards outside RAM"),
    ):
        yield f"fuzz_{name}", _lab("reliability", counts[finding], "", finding)


def _contents() -> Named:
    rows = pd.read_csv(shipped("contents/contents.csv"))
    for column in ("changed_bytes", "nonzero_bytes"):
        yield f"contents_{column}", _lab("contents", rows[column].sum(), "", column)
    compared = rows[["kept_bytes", "ballooned_bytes"]].sum().sum() / GIB
    yield "contents_gib", _lab("contents", compared, "GiB", "compared byte by byte")


def _sizes() -> Named:
    frame = load(shipped("sizes")).frame
    memories = sorted(frame["memory_bytes"].unique())
    for thp in (False, True):
        for touched, state in STATES.items():
            prefix = f"sizes_{state}_{'thp_' if thp else ''}"
            means = f"idle, {state}, {'huge pages' if thp else 'no huge pages'}"
            common = {"touched": touched, "thp": thp}
            totals = {
                protocol: np.array(
                    [
                        median_ms(frame, protocol=protocol, memory_bytes=size, **common)
                        for size in memories
                    ]
                )
                for protocol in ("pfn", "bitmap-v4")
            }
            pages = np.array(memories) * 7 / 8 / PAGE_BYTES
            for protocol, ms in totals.items():
                ns = 1e6 * ms / pages
                name = f"{prefix}{SHORT[protocol]}"
                yield (
                    f"{name}_least_ns",
                    _lab("sizes", ns.min(), "ns", means, f"a page, {protocol}"),
                )
                yield f"{name}_most_ns", _lab("sizes", ns.max(), "ns", means, f"a page, {protocol}")
                power = np.polyfit(np.log(pages), np.log(ms), 1)[0]
                yield (
                    f"{name}_power",
                    _lab("sizes", power, "", means, f"time ~ memory^, {protocol}"),
                )
            ratios = totals["pfn"] / totals["bitmap-v4"]
            for size, ratio in zip(memories, ratios, strict=True):
                name = f"{prefix}{size // GIB}gib_ratio"
                yield (
                    name,
                    _lab("sizes", ratio, "times", means, f"pfn over bitmap-v4, {size // GIB} GiB"),
                )


def _runs() -> Named:
    frame = load(shipped("runs")).frame
    for mean in sorted(int(pattern.partition(":")[2]) for pattern in frame["pattern"].unique()):
        yield from _pair("runs", frame, f"runs_{mean}", pattern=f"geometric:{mean}")


def _density() -> Named:
    frame = load(shipped("density")).frame
    for size in sorted(frame["balloon_bytes"].unique()):
        case = frame[frame["balloon_bytes"] == size]
        percent = round(100 * size / case["memory_bytes"].iloc[0])
        name = f"density_{percent}"
        yield from _pair("density", case, name, pattern="random", balloon_bytes=size)


def _pair(data: str, frame: pd.DataFrame, name: str, **case: object) -> Named:
    """Both protocols on one touched page set: times, and what they are made of."""
    means = ", ".join(f"{column} {value}" for column, value in case.items())
    ms = {}
    for protocol in ("pfn", "bitmap-v4"):
        ms[protocol] = median_ms(frame, protocol=protocol, **case)
        full = f"{name}_{SHORT[protocol]}_ms"
        yield full, _lab(data, ms[protocol], "ms", means, protocol)
    ratio = ms["pfn"] / ms["bitmap-v4"]
    yield f"{name}_ratio", _lab(data, ratio, "times", means, "pfn over bitmap-v4")


def _grid() -> Named:
    frame = load(shipped("patterns")).frame
    for pattern in sorted(frame["pattern"].unique()):
        for touched, state in STATES.items():
            case = {"pattern": pattern, "touched": touched}
            name = f"grid_{pattern.replace(':', '_')}_{state}"
            ms = {
                (protocol, discard): median_ms(frame, protocol=protocol, discard=discard, **case)
                for protocol in ("pfn", "bitmap-v4")
                for discard in ("page", "range")
            }
            old = ms["pfn", "page"]
            for what, pair in (
                ("message", ("bitmap-v4", "page")),
                ("range", ("pfn", "range")),
                ("both", ("bitmap-v4", "range")),
            ):
                saved = 100 * (1 - ms[pair] / old)
                means = f"of pfn by page saved by {pair[0]} by {pair[1]}, {pattern}, {state}"
                yield f"{name}_{what}_percent", _lab("patterns", saved, "%", means)
