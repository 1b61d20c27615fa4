"""Which format is best, by density and run length; and where recorded guests are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from .. import wire
from ..measurement import Run, sweep
from ..measurement.options import PathLike, check_choice, names_of
from ..measurement.starts import unit_times
from ..measurement.tables import as_frame, check_columns
from ..pages import patterns, traces
from ..sizes import GIB, PAGE_BYTES, Size, parse_pages
from .counting import count

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95)
RUNS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
"""Shares of memory, and mean lengths of runs in pages: the cells of the map that is counted."""

MEASURED_DENSITIES = (0.05, 0.2, 0.5, 0.9)
MEASURED_RUNS = (1, 4, 32, 1024)
"""Those of the map that is measured."""

PROPOSED = tuple(name for name in wire.spoken() if name not in ("bitmap-v4-posted", "adaptive"))
"""Formats that were proposed to the list, and PFNs, which were not replaced."""

_MADE = ("frame", "harness.crossover")

OWN_STAGES = ("send", "translate")
"""Stages whose time depends on the format."""

N_DRAWS = 4000
ALIKE = 1.05
"""By bytes, two formats are not apart within this ratio."""


def counted(memory: Size = "256MiB") -> pd.DataFrame:
    """Count the bytes of every proposed format in every cell of density and run length.

    Parameters
    ----------
    memory : int or str
        RAM that the shares are of.

    Returns
    -------
    pandas.DataFrame
        A row for each cell that can be (no more runs than gaps) and protocol: ``pattern``,
        ``memory_bytes``, ``balloon_bytes``, ``protocol``, ``wire_bytes``, ``n_kicks``; of pages in
        ascending order. Nothing is measured.
    """
    memory_pages, rows = parse_pages(memory, "memory"), []
    for density, mean_run in product(DENSITIES, RUNS):
        pattern, n_pages = f"geometric:{mean_run}", round(density * memory_pages)
        with suppress(ValueError):
            pages = patterns.make(pattern, memory, n_pages * PAGE_BYTES)
            rows += [
                {"pattern": pattern, "balloon_bytes": n_pages * PAGE_BYTES, "protocol": name}
                | count(name, pages, memory_pages, "sorted")._asdict()
                for name in PROPOSED
            ]
    columns = ["pattern", "memory_bytes", "balloon_bytes", "protocol", "wire_bytes", "n_kicks"]
    return pd.DataFrame(rows).assign(memory_bytes=memory_pages * PAGE_BYTES)[columns]


def crossover(
    memory: Size = "64MiB",
    guests: Iterable[str] = ("thread", "kvm"),
    touched: Iterable[bool] = (True,),
    repeats: int = 3,
    out: PathLike | None = None,
    progress: bool = True,
) -> Run:
    """Measure inflations with every format in cells of density and run length.

    A `balloonlab.sweep` over ``geometric:MEAN`` patterns, ascending, at a device that joins
    neighbours whatever the format; cells that cannot be (more runs than gaps) are skipped.

    Parameters
    ----------
    memory, guests, touched, repeats, out, progress
        As in `balloonlab.sweep`. Some eight minutes by default.
    """
    return sweep(
        memory=memory, balloon=list(MEASURED_DENSITIES), protocol=[*PROPOSED, "adaptive"],
        pattern=[f"geometric:{mean}" for mean in MEASURED_RUNS], guest=list(guests),
        touched=list(touched), discard="range", repeats=repeats, out=out, progress=progress,
    )  # fmt: skip


def best(frame: Run | pd.DataFrame, by: str = "time_ns", of: Iterable[str] = ()) -> pd.DataFrame:
    """Return which format is best in each cell, and whether it is apart from the second.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        What `crossover` returned, of one source and either touched or not; or `counted`, where `by`
        is a count.
    by : {'time_ns', 'wire_bytes', 'n_kicks'}
        By the median of the starts' times, or by a count.
    of : iterable of str
        Protocols that are compared; by default those that were proposed to the list.

    Returns
    -------
    pandas.DataFrame
        A row per cell: ``density``, ``mean_run_pages``, ``best``, ``second``, ``ratio`` (second to
        best), ``alike`` (all of which a process start is as fast as one of the best, or a repeat
        where there is but one start; for counts those within `ALIKE`), as a tuple, and ``apart``:
        no other is.
    """
    check_choice("by", by, ("time_ns", "wire_bytes", "n_kicks"))
    rows = as_frame(frame)
    check_columns(rows, ["protocol", "pattern", "balloon_bytes", "memory_bytes", by], *_MADE)
    if by == "time_ns" and len(kinds := rows[["source", "touched"]].drop_duplicates()) > 1:
        raise ValueError(
            f"frame must have one source, touched or not, to be ranked by time, got "
            f"{kinds.to_numpy().tolist()}: select one"
        )
    there = rows["protocol"].unique()
    chosen = names_of("of", of, there) if of else [name for name in PROPOSED if name in there]
    rows = rows[rows["protocol"].isin(chosen)]
    rows = rows.assign(
        density=(rows["balloon_bytes"] / rows["memory_bytes"]).round(3),
        mean_run_pages=rows["pattern"].str.extract(r"^geometric:(\d+)$", expand=False).astype(int),
    )
    cell = ["density", "mean_run_pages", "protocol"]
    values = unit_times(rows, cell).explode() if by == "time_ns" else rows.groupby(cell)[by].first()
    ends = values.astype(float).groupby(cell).agg(["median", "min", "max"]).reset_index()
    found = []
    for (density, mean_run), group in ends.groupby(cell[:2]):
        order = group.sort_values(["median", "protocol"])
        first = order.iloc[0]
        alike = order["min"] <= first["max"]
        if by != "time_ns":
            alike = order["median"] <= ALIKE * first["median"]
        second = order.iloc[min(1, len(order) - 1)]
        found.append(
            {
                "density": density,
                "mean_run_pages": mean_run,
                "best": first["protocol"],
                "second": second["protocol"],
                "ratio": second["median"] / first["median"],
                "apart": alike.sum() == 1,
                "alike": tuple(order.loc[alike, "protocol"]),
            }
        )
    return pd.DataFrame(found)


def compared(frame: Run | pd.DataFrame, protocol: str = "adaptive") -> pd.DataFrame:
    """Return how long inflations with a protocol take over those with each other, on average.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        What `crossover` returned.
    protocol : str
        Whose times are divided.

    Returns
    -------
    pandas.DataFrame
        A row per source and other protocol: ``source``, ``other``, ``ratio`` (geometric mean over
        the cells, of medians), ``low`` and ``high`` (95 %, bootstrap over the cells), ``n_cells``.
    """
    rows, cell = as_frame(frame), ["source", "touched", "balloon_bytes", "pattern"]
    check_columns(rows, [*cell, "protocol", "repeat", "time_ns"], *_MADE)
    check_choice("protocol", protocol, rows["protocol"].unique())
    medians = _medians(rows, cell)
    found, rng = [], np.random.default_rng(0)
    for source, mine in np.log(medians).groupby("source"):
        for other in mine.columns.drop(protocol):
            logs = (mine[protocol] - mine[other]).to_numpy()
            means = logs[rng.integers(logs.size, size=(N_DRAWS, logs.size))].mean(axis=1)
            low, high = np.exp(np.percentile(means, [2.5, 97.5]))
            row = {"source": source, "other": other, "ratio": np.exp(logs.mean())}
            found.append(row | {"low": low, "high": high, "n_cells": logs.size})
    return pd.DataFrame(found)


def excess(frame: Run | pd.DataFrame, protocol: str = "adaptive") -> pd.DataFrame:
    """Return what a protocol's own work takes above the best other's, as a share of the inflation.

    Own is what formats differ in: to pack, to kick and to decode (``send``), and to look up
    (``translate``). Allocation and discards, of which most of the time and its scatter are, are
    those of the pages, whatever the format.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        What `crossover` returned.
    protocol : str
        Whose work it is.

    Returns
    -------
    pandas.DataFrame
        A row per source and cell: ``source``, ``touched``, ``balloon_bytes``, ``pattern``,
        ``other`` (whose own work is least), ``excess`` (of medians, over the shortest inflation of
        the others; negative where the protocol's own work is least).
    """
    rows, cell = as_frame(frame), ["source", "touched", "balloon_bytes", "pattern"]
    check_columns(rows, [*cell, "protocol", "repeat", "stage", "time_ns"], *_MADE)
    check_choice("protocol", protocol, rows["protocol"].unique())
    own, whole = _medians(rows[rows["stage"].isin(OWN_STAGES)], cell), _medians(rows, cell)
    others = own.drop(columns=protocol)
    above = own[protocol] - others.min(axis=1)
    share = above / whole.drop(columns=protocol).min(axis=1)
    return pd.DataFrame({"other": others.idxmin(axis=1), "excess": share}).reset_index()


def _medians(rows: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """Return the median time in each cell, a column per protocol."""
    times = unit_times(rows, [*cell, "protocol"]).map(np.median).rename("ns").reset_index()
    return times.pivot_table(index=cell, columns="protocol", values="ns")


@cache
def recorded_guests() -> pd.DataFrame:
    """Return where each recorded inflation is: ``name``, ``density``, ``mean_run_pages``."""
    whole = traces.encoding_summary()
    return pd.DataFrame(
        {
            "name": whole["name"],
            "density": whole["n_pages"] * PAGE_BYTES / whole["memory_bytes"],
            "mean_run_pages": GIB / PAGE_BYTES / whole["runs_per_gib"],
        }
    )
