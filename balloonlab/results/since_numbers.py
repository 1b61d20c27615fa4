"""Numbers of the way from 2016 to today: both totals taken apart, and the gain by allocation."""

from __future__ import annotations

from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ..datasets import published
from ..measurement.estimates import Estimate
from ..reproduction import gains, inflations, since_2016
from ..reproduction.samples import STATES, STEPS, Cases, estimate, paper
from ..reproduction.since_2016 import PARTS as STEPS_OF
from .number import SHORT, Numbers, estimated, number, short

PREFIX = "since_2016"


@cache
def _frame() -> pd.DataFrame:
    return since_2016()


def _published() -> Numbers:
    """Give the paper's stages, per page and kick, too, and what of 590 ms is not allocation."""
    for row in _frame().query("account == 'published' and step != 'total'").to_dict("records"):
        name, about = f"paper_{SHORT[row['protocol']]}_{short(row['step'])}", row["protocol"]
        for unit, column in (("ms", "time_ms"), ("ns", "page_ns")):
            means = f"{row['step']}{' per page' * (unit == 'ns')}, 7 of 8 GiB idle, {about}"
            yield number("paper", "published.csv", f"{name}_{unit}", row[column], unit, means)
    send = published().query("protocol == 'pfn' and stage == 'send'").iloc[0]
    us = send["time_ms"] * 1e3 / send["n_kicks"]
    yield number("paper", "published.csv", "paper_kick_us", us, "us", "send per kick, pfn")


def _of(row: Any, unit: str = "ms") -> Estimate:
    """Return an estimate that a table has: ``time_ms`` in ms, ``page_ns`` in ns."""
    names = {"ms": ("time_ms", "low_ms", "high_ms"), "ns": ("page_ns", "low_ns", "high_ns")}[unit]
    value, low, high = (float(row[name]) for name in names)
    return Estimate(value, low, high, row["interval"])


def _steps() -> Numbers:
    """Give each step of today, as measured."""
    rows = _frame().query("account == 'today' and step not in ('unexplained', 'total')")
    for row in rows.to_dict("records"):
        name = f"{PREFIX}_{SHORT[row['protocol']]}_{row['memory']}_{short(row['step'])}"
        about = f"7 of 8 GiB, {row['memory']}, {row['protocol']}"
        measured, means = partial(estimated, row["source"], row["data"]), (about, row["note"])
        yield measured(f"{name}_ms", _of(row), "ms", *means)
        yield measured(f"{name}_ns", _of(row, "ns"), "ns", "per page", *means)


def _totals() -> Numbers:
    """Give the sum of today's parts, what they account for of 2016, and what stays unexplained."""
    rows = _frame().set_index(["account", "protocol", "memory", "step"]).sort_index()
    modelled = partial(estimated, "model", "kvm")
    for protocol, memory in product(STEPS_OF, STATES):
        name = f"{PREFIX}_{SHORT[protocol]}_{memory}"
        today = rows.loc["today", protocol, memory, "total"]
        left = rows.loc["taken apart", protocol, memory, "unexplained"]
        whole_ms = rows.loc["taken apart", protocol, memory, "total"]["time_ms"]
        value, low, high, interval = _of(left)
        explained = Estimate(whole_ms - value, whole_ms - high, whole_ms - low, interval)
        about, means = f"7 of 8 GiB, {memory}, {protocol}", f"{today['note']} ({today['source']})"
        yield modelled(f"{name}_ms", _of(today), "ms", about, means)
        yield modelled(f"{name}_ns", _of(today, "ns"), "ns", about, "per page")
        means = "2016 less its allocation, today's steps"
        yield modelled(f"{name}_unexplained_ms", _of(left), "ms", about, means)
        means = "2016's allocation, today's steps"
        yield modelled(f"{name}_explained_ms", explained, "ms", about, means)


def _left() -> Numbers:
    """Give what each published stage took more in 2016 than today."""
    rows = _frame().query("account == 'left over' and step not in ('unexplained', 'total')")
    for row in rows.to_dict("records"):
        name = f"{PREFIX}_{SHORT[row['protocol']]}_{row['memory']}_left_{short(row['step'])}_ms"
        about = f"7 of 8 GiB, {row['memory']}, {row['protocol']}, {row['step']}"
        means = about, f"{row['note']} ({row['source']})"
        yield estimated("model", "kvm", name, _of(row), "ms", *means)


def _kick() -> Numbers:
    """Give what exits and wake-ups take per kick today."""
    cases = Cases(None)
    known = published().query("protocol == 'pfn'").iloc[0]
    pages = paper("pfn").n_pages / known["n_kicks"]
    for memory in ("untouched", "touched"):
        at = list(STEPS).index("notify")
        found = estimate([cases("kvm", "pfn", memory)], lambda ns, at=at: ns[..., at] * pages / 1e3)
        about = f"exits and wake-ups per kick, 7 of 8 GiB, {memory}, pfn"
        yield estimated("kvm", "kvm", f"{PREFIX}_kick_{memory}_us", found, "us", about)


def _backed() -> Numbers:
    """Give the share of 2016's balloon that must be touched for today's discards to take 590 ms."""
    cases, known = Cases(None), paper("bitmap-v4")
    samples = [cases("kvm", "bitmap-v4", memory) for memory in ("untouched", "touched")]
    allocate = list(STEPS).index("allocate")

    def percent(untouched: np.ndarray, touched: np.ndarray) -> np.ndarray:
        least, most = (one.sum(axis=-1) - one[..., allocate] for one in (untouched, touched))
        share: np.ndarray = 100 * (known.stages_ns["rest"] - least) / (most - least)
        return share

    about = "of the balloon touched, for 590 ms by today's discards"
    name = f"{PREFIX}_backed_percent"
    yield estimated("model", "kvm", name, estimate(samples, percent), "%", about)


def _gains() -> Numbers:
    """Give the gain with Linux's or the paper's allocation in place of the lab's."""
    table = gains()
    own = table.query("source == 'paper'")["gain"].iloc[0]
    yield number("paper", "published.csv", "paper_gain", own, "times", "pfn over bitmap-v4")
    rows = table.query("source != 'paper' and allocation != 'own'")
    for row in rows.to_dict("records"):
        name = f"{PREFIX}_{row['source']}_{row['allocation']}_{row['memory']}_gain"
        about = f"7 of 8 GiB, {row['memory']}, pfn over bitmap-v4"
        means = f"all of {row['source']} but allocation, of {row['allocation']}"
        gain = Estimate(row["gain"], row["low"], row["high"], row["interval"])
        data = row["data"].split(", ")[0]
        yield estimated("model", data, name, gain, "times", means, about)


def _rates() -> Numbers:
    """Give the published rates of whole inflations."""
    for row in inflations().query("source == 'paper'").to_dict("records"):
        name = f"paper_{short(row['system'])}_{row['memory']}_gib_per_s"
        about = f"reclaiming {row['memory']} memory, {row['system']}"
        yield number("paper", row["data"], name, row["gib_per_s"], "GiB/s", about)


PARTS = (_published, _steps, _totals, _left, _kick, _backed, _gains, _rates)
