"""What costs are fitted to: the shipped measurements, each with the units that it took.

A row is a part of a stage of a case in a run: the median over its repeats. Units that a measured
frame lacks are counted anew from the case's pages (`balloonlab.model.counting`), which takes a
minute for all shipped runs; so the table is shipped, too (``data/model/evidence.csv``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from .. import datasets
from ..measurement.case import CUSTOM, Case
from ..measurement.options import TABLE
from ..measurement.reading import load
from ..measurement.setups import make_case
from ..measurement.starts import unit_times
from ..measurement.tables import as_frame
from .counting import count

RUNS = (
    *("headline", "sizes", "runs", "density", "patterns", "guests", "drivers", "kick-pages"),
    *("kvm", "kvm-sizes", "vms", "ladder", "policies", "threads"),
    "backings",
)
"""Shipped runs of balloonlab's own driver and device."""

FILE = "model/evidence.csv"

OPTIONS = [str(row.column) for row in TABLE.values() if row.column and not row.skipped_only]
"""Columns of a measured frame that say which case it is."""

GUESTS = {"lab": "thread", "kvm": "kvm"}
"""Who runs the driver, by source: whose costs are modelled."""


def case_of(row: Mapping[str, Any]) -> Case:
    """Return the case of a row of a measured frame."""
    options: dict[str, Any] = {
        name: row[str(option.column)]
        for name, option in TABLE.items()
        if option.column in OPTIONS and name not in ("memory", "balloon", "vectors")
    }
    if row["vectors"]:
        options["vectors"] = row["vectors"]
    options |= {"memory": int(row["memory_bytes"]), "balloon": int(row["balloon_bytes"])}
    options |= {"guest": GUESTS[row["source"]]}
    return make_case(**options)


def gather(frames: Mapping[str, Any]) -> pd.DataFrame:
    """Return the evidence in measured frames.

    Parameters
    ----------
    frames : mapping of str to Run or pandas.DataFrame
        By the name of the run, whose cases share what is peculiar to it.

    Returns
    -------
    pandas.DataFrame
        ``run``, ``machine`` (processor and kernel), ``run_id``, ``source``, the case's options, its
        units, ``stage``, ``part`` and ``time_ns``, its median over process starts; of runs that
        measured them exits are a part of their own, by kicks that nobody listens to, and not in
        ``notify``. Cases of balloonlab's own driver and device alone, one message in flight, pages
        that are known by name: others are left out.
    """
    if not frames:
        raise ValueError("frames must hold at least one run by its name, got none")
    tables = []
    for run, data in frames.items():
        meta = getattr(data, "meta", {})
        machine = ", ".join(str(meta.get(name, "unknown")) for name in ("cpu_model", "kernel"))
        found = _gather_run(as_frame(data), getattr(data, "checks", None))
        tables.append(found.assign(run=run, machine=machine))
    table = pd.concat(tables, ignore_index=True)
    first = ["run", "machine", "run_id", "source", *OPTIONS]
    return table[[*first, *(name for name in table if name not in first)]]


def _gather_run(frame: pd.DataFrame, checks: pd.DataFrame | None) -> pd.DataFrame:
    """Return the evidence of one run."""
    known = frame["source"].isin(list(GUESTS)) & ~frame["pattern"].str.startswith(CUSTOM)
    plain = (frame["in_flight"] == 1) & (frame["allocation"] == "page")
    frame = frame[known & plain & (frame["steps"] == 1) & (frame["stage"] != "remainder")]
    cases = frame.drop_duplicates("run_id").set_index("run_id")
    counted = [_count_again(case_of(row)) for row in cases.to_dict("records")]
    times = unit_times(frame, ["run_id", "stage", "part"]).map(np.median).rename("time_ns")
    timed = _exits_apart(times.reset_index(), cases, checks)
    about = cases[["source", *OPTIONS]].join(pd.DataFrame(counted, cases.index))
    return timed.join(about, on="run_id")


def _exits_apart(
    timed: pd.DataFrame, cases: pd.DataFrame, checks: pd.DataFrame | None
) -> pd.DataFrame:
    """Split the time to notify where a run knows its exits: kicks that nobody listens to."""
    if checks is None or "exit_q2_ns" not in checks:
        return timed
    exit_ns = checks.groupby("run_id")["exit_q2_ns"].median().dropna()
    notify = timed[(timed["part"] == "notify") & timed["run_id"].isin(exit_ns.index)]
    kicks = notify["run_id"].map(cases["n_kicks"])
    exits = notify.assign(part="exit", time_ns=kicks * notify["run_id"].map(exit_ns))
    timed.loc[notify.index, "time_ns"] -= exits["time_ns"]
    return pd.concat([timed, exits[exits["time_ns"] > 0]], ignore_index=True)


_COUNTED: dict[Case, dict[str, int]] = {}


def _count_again(case: Case) -> dict[str, int]:
    """Count a case; what does not change counts is made alike first."""
    alike: dict[str, Any] = {
        "touched": True,
        "thp": False,
        "repeats": 1,
        "guest": "thread",
        "source": "lab",
    }
    backing = "hugetlb" if case.backing == "hugetlb" else "anonymous"
    key = replace(case, **alike, backing=backing, verb="dontneed", wait="block")
    if key not in _COUNTED:
        _COUNTED[key] = count(key)
    return _COUNTED[key]


def gather_shipped(runs: Iterable[str] = RUNS) -> pd.DataFrame:
    """Return the evidence of shipped runs, counted anew: what ``data/model/evidence.csv`` holds."""
    return gather({name: load(datasets.path(name)) for name in runs})


@cache
def _read() -> pd.DataFrame:
    table = pd.read_csv(datasets.path(FILE), na_filter=False, dtype={"run_id": str})
    return table.astype({"time_ns": np.float64})


def evidence() -> pd.DataFrame:
    """Load the shipped evidence, as `gather` returns it.

    Examples
    --------
    >>> sorted(evidence()["source"].unique())
    ['kvm', 'lab']
    """
    return _read().copy()
