"""The main job: the headline of 2016, measured here and shown beside the paper's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .. import datasets
from ..datasets import published
from ..measurement.on_lab import FLOOR
from ..measurement.reading import load
from ..measurement.stages import STAGES
from ..measurement.tables import COLUMNS
from ..sizes import GIB, format_number, format_size

STAGE_LABELS = {
    "allocate": "a allocate, ms",
    "send": "b send, ms",
    "translate": "c translate, ms",
    "discard": "d discard, ms",
    "remainder": "remainder, ms",
}

PAPER = "paper, idle"
PROTOCOLS = {"lab": ("pfn", "bitmap-v4", FLOOR), "qemu": ("pfn", "reporting")}
"""What is compared on each host: ``pfn``, what replaces it, and in the lab the floor."""


@dataclass(frozen=True, repr=False)
class Reproduction:
    """The headline comparison of one machine.

    Attributes
    ----------
    frame : pandas.DataFrame
        Every raw repeat; columns as in `balloonlab.measure`.
    meta : dict
        Machine, versions, commit, arguments.
    checks : pandas.DataFrame
        One row per repeat, as `balloonlab.measurement.Run` has it.
    folder : pathlib.Path or None
        Where the tables, ``meta.json`` and the figure are.
    """

    frame: pd.DataFrame
    meta: dict[str, Any]
    checks: pd.DataFrame
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Reproduction:
        """Read a stored reproduction."""
        run = load(folder)
        return cls(run.frame, run.meta, run.checks, Path(folder))

    def __repr__(self) -> str:
        first, bulk = self.frame.iloc[0], PROTOCOLS[self.source][1]
        balloon, memory = (format_size(int(first[f"{of}_bytes"])) for of in ("balloon", "memory"))
        gains = [
            f"{state} {format_number(ratio, 2)}x"
            for touched, state in ((False, "untouched"), (True, "touched"))
            if (ratio := self.ratio("pfn", bulk, touched)) is not None
        ]
        return (
            f"Reproduction({self.source}, {balloon} of {memory}, "
            f"{self.frame['repeat'].nunique()} repeats; pfn over {bulk}: {', '.join(gains)})"
        )

    def _repr_html_(self) -> str:
        from .report import readable  # which is built on this module

        return f"{self!r}{readable(self).to_html()}"

    @property
    def source(self) -> str:
        """Source of the run: ``"lab"`` or ``"qemu"``."""
        return str(self.meta["arguments"].get("host", "lab"))

    def table(self) -> pd.DataFrame:
        """Compare paper and machine; beside a run in QEMU also the shipped one of the lab.

        Returns
        -------
        pandas.DataFrame
            Columns (source and memory, protocol); rows: stages and total in ms, kicks,
            wire bytes, madvise calls, GiB/s, speed-up over ``pfn`` of the same
            source. Of each case the repeat with the median total is shown, so that
            its stages sum to its total. NaN where nothing was published.
        """
        columns = {(PAPER, name): _paper_column(name) for name in ("pfn", "bitmap-v4")}
        beside = lab_beside(self.frame) if self.source == "qemu" else None
        for run in filter(None, (beside, self)):
            for group, protocol, repeat in measured_cases(run.frame, run.source):
                columns[group, protocol] = _measured_column(repeat)
        table = pd.DataFrame(columns)
        legacy = table.loc["total, ms"].xs("pfn", level=1)
        for group, protocol in table.columns:
            total = table.loc["total, ms", (group, protocol)]
            if group in legacy.index:
                table.loc["speed-up", (group, protocol)] = legacy[group] / total
        return table

    def ranges(self) -> pd.DataFrame:
        """Return the least and the greatest time of each stage over the repeats, in ms.

        Returns
        -------
        pandas.DataFrame
            One row per case (source, touched, protocol); columns (stage, ``least`` or
            ``greatest``), ``total`` last.
        """
        case = ["source", "touched", "protocol"]
        table = self.frame.pivot_table(
            index=[*case, "repeat"], columns="stage", values="time_ns", aggfunc="sum", sort=False
        )
        table = table[[stage for stage in STAGES if stage in table]] / 1e6
        by_case = table.assign(total=table.sum(axis=1)).groupby(level=case, sort=False)
        return by_case.agg([("least", "min"), ("greatest", "max")])

    def ratio(self, protocol: str, over: str, touched: bool) -> float | None:
        """Return the ratio of two protocols' totals, each of the repeat that `table` shows.

        None where one was not measured.
        """
        totals = [
            median_repeat(self.frame, name, touched)["time_ns"].sum() for name in (protocol, over)
        ]
        return float(totals[0] / totals[1]) if all(totals) else None


def _paper_column(protocol: str) -> dict[str, float]:
    rows = published().query("protocol == @protocol")
    column = {
        STAGE_LABELS[stage]: time_ms
        for stage, time_ms in zip(rows["stage"], rows["time_ms"], strict=True)
        if stage in STAGE_LABELS
    }
    first = rows.iloc[0]
    return column | _sums(rows["time_ms"].sum(), first)


def _measured_column(repeat: pd.DataFrame) -> dict[str, float]:
    stages = repeat.groupby("stage")["time_ns"].sum() / 1e6
    column = {STAGE_LABELS[str(stage)]: float(time_ms) for stage, time_ms in stages.items()}
    return column | _sums(stages.sum(), repeat.iloc[0])


def _sums(total_ms: float, row: pd.Series) -> dict[str, float]:
    return {
        "total, ms": total_ms,
        "kicks": row["n_kicks"],
        "wire bytes": row["wire_bytes"],
        "madvise calls": row["n_discards"],
        "GiB/s": row["balloon_bytes"] / GIB / (total_ms / 1e3),
    }


def measured_cases(frame: pd.DataFrame, source: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the cases of a reproduction: source and memory, protocol, the median repeat.

    Raises
    ------
    ValueError
        `frame` is no tidy frame, or was not measured there.
    """
    _check_frame(frame)
    rows = frame[frame["source"] == source]
    if rows.empty:
        sources = ", ".join(frame["source"].unique())
        raise ValueError(f"frame must hold cases of source {source!r}, got only those of {sources}")
    for touched, state in ((False, "untouched"), (True, "touched")):
        for protocol in PROTOCOLS[source]:
            repeat = median_repeat(rows, protocol, touched)
            if len(repeat):
                yield f"{source}, {state}", protocol, repeat


def lab_beside(frame: pd.DataFrame) -> Reproduction | None:
    """Load the lab's run that comes with balloonlab, where it is of the same sizes as a frame."""
    try:
        lab = Reproduction.load(datasets.path("headline"))
    except (FileNotFoundError, ValueError):  # none, or of an older balloonlab
        return None
    sizes = ["memory_bytes", "balloon_bytes"]
    return lab if (lab.frame[sizes].iloc[0] == frame[sizes].iloc[0]).all() else None


def _check_frame(frame: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing or frame.empty:
        raise ValueError(
            "frame must be the frame of a reproduction or a measurement, got "
            + (f"one without {', '.join(missing)}" if missing else "no rows")
        )


def _rows(frame: pd.DataFrame, protocol: str, touched: bool) -> pd.DataFrame:
    """Rows of one case of a reproduction; refuses a frame in which there are several."""
    _check_frame(frame)
    rows = frame[(frame["protocol"] == protocol) & (frame["touched"] == touched)]
    n_cases = len(rows["run_id"].unique())
    if n_cases > 1:
        raise ValueError(
            f"frame must hold one case for protocol={protocol!r}, touched={touched}, got "
            f"{n_cases} run_ids: choose the rows of one run first"
        )
    return rows


def _totals(frame: pd.DataFrame, protocol: str, touched: bool) -> pd.Series:
    return _rows(frame, protocol, touched).groupby("repeat")["time_ns"].sum()


def median_repeat(frame: pd.DataFrame, protocol: str, touched: bool) -> pd.DataFrame:
    """Return the rows of the repeat with the (lower) median total; empty if there is none."""
    totals = _totals(frame, protocol, touched).sort_values()
    if totals.empty:
        return frame.iloc[:0]
    rows = _rows(frame, protocol, touched)
    return rows[rows["repeat"] == totals.index[(len(totals) - 1) // 2]]
