"""The main job: the headline of 2016, measured here and shown beside the paper's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import datasets
from ..datasets import published
from ..measurement.estimates import Estimate, estimate
from ..measurement.on_lab import FLOOR
from ..measurement.reading import load
from ..measurement.stages import STAGES
from ..measurement.starts import case_times, kind_of
from ..measurement.tables import COLUMNS
from ..sizes import GIB, format_measured, format_size

STAGE_LABELS = {
    "allocate": "a allocate, ms",
    "send": "b send, ms",
    "translate": "c translate, ms",
    "discard": "d discard, ms",
    "remainder": "remainder, ms",
}
STATES = {False: "untouched", True: "touched"}
PAPER = "paper, idle"
PROTOCOLS = {
    "lab": ("pfn", "bitmap-v4", FLOOR),
    "kvm": ("pfn", "bitmap-v4", FLOOR),
    "qemu": ("pfn", "reporting"),
    "linux": ("pfn", "hinting"),
}
"""What is compared at each source: ``pfn``, what replaces it, and by our driver the floor."""


class Case(NamedTuple):
    """A case of the headline: its source and memory, ms by stage, a row of it, ms by repeat."""

    group: str
    protocol: str
    stages_ms: pd.Series
    about: pd.Series
    totals_ms: pd.Series


@dataclass(frozen=True, repr=False)
class Reproduction:
    """The headline comparison of one machine.

    Attributes
    ----------
    frame, meta, checks
        As `balloonlab.measurement.Run` has them.
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
        bulk = PROTOCOLS[self.source][1]
        memory, balloon = map(format_size, sizes_of(self.frame))
        gains = [
            f"{state} {format_measured(ratio.value)}x"
            for touched, state in STATES.items()
            if (ratio := self.ratio("pfn", bulk, touched))
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
        """Source of the run: ``"lab"``, ``"kvm"``, ``"qemu"`` or ``"linux"``."""
        return source_of(self.frame)

    def table(self) -> pd.DataFrame:
        """Compare paper and machine; beside another source's run also the shipped one of the lab.

        Returns
        -------
        pandas.DataFrame
            Columns (source and memory, protocol); rows: stages and total in ms, kicks,
            wire bytes, madvise calls, GiB/s, speed-up (ratio of the medians per byte)
            over ``pfn`` of the same source. Of each case the repeat with the median total is
            shown, so that its stages sum to it (of an even number the lower one in the middle,
            scaled to it). NaN where nothing was published, and for stages that a case does not
            have.
        """
        cases = [*paper_cases(), *cases_beside_lab(self.frame, self.source)]
        rates = {(case.group, case.protocol): _rate(case) for case in cases}
        table = pd.DataFrame({(case.group, case.protocol): _column(case) for case in cases})
        for group, protocol in table.columns:
            if (group, "pfn") in rates:
                ratio = rates[group, protocol] / rates[group, "pfn"]
                table.loc["speed-up", (group, protocol)] = ratio
        return table

    def ranges(self) -> pd.DataFrame:
        """Return the least and the greatest time of each stage over the repeats, in ms.

        One row per case (source, touched, protocol); columns (stage, ``least`` or ``greatest``),
        ``total`` last; NaN for stages that a case does not have.
        """
        case = ["source", "touched", "protocol"]
        table = self.frame.pivot_table(
            index=[*case, "repeat"], columns="stage", values="time_ns", aggfunc="sum", sort=False
        )
        table = table[[stage for stage in STAGES if stage in table]] / 1e6
        by_case = table.assign(total=table.sum(axis=1)).groupby(level=case, sort=False)
        return by_case.agg([("least", "min"), ("greatest", "max")])

    def ratio(self, protocol: str, over: str, touched: bool) -> Estimate | None:
        """Return the ratio of two protocols' times per byte; None if one was not measured.

        With its interval: over the process starts, of a single one the range of its repeats.
        """
        rows = self.frame[self.frame["touched"] == touched]
        ns = case_times(rows.assign(time_ns=rows["time_ns"] / rows["n_pages"]), ["protocol"])
        if protocol not in ns or over not in ns:
            return None
        return estimate([ns[protocol], ns[over]], lambda one, other: one / other, self.kind)

    def shares(self, protocol: str, touched: bool) -> dict[str, Estimate]:
        """Return the share of each stage in a protocol's time, in %; none if not measured."""
        rows = self.frame[self.frame["touched"] == touched]
        rows = rows[rows["protocol"] == protocol]
        if rows.empty:
            return {}
        whole, stages = case_times(rows, ["protocol"])[protocol], case_times(rows, ["stage"])
        shares = {str(stage): 100 * ns / whole for stage, ns in stages.items()}
        return {
            name: estimate([one], lambda share: share, self.kind) for name, one in shares.items()
        }

    @property
    def kind(self) -> str:
        """What intervals are over: process ``starts``, or ``repeats`` of a single one."""
        return kind_of(self.frame)


def stages_ms(repeat: pd.DataFrame) -> pd.Series:
    """Return the time of each stage of a repeat."""
    return repeat.groupby("stage")["time_ns"].sum() / 1e6


def _column(case: Case) -> dict[str, float]:
    stages, about, total_ms = case.stages_ms, case.about, case.stages_ms.sum()
    return {name: stages[stage] for stage, name in STAGE_LABELS.items() if stage in stages} | {
        "total, ms": total_ms,
        "kicks": about["n_kicks"],
        "wire bytes": about["wire_bytes"],
        "madvise calls": about["n_discards"],
        "GiB/s": about["balloon_bytes"] / GIB / (total_ms / 1e3),
    }


def _rate(case: Case) -> float:
    """Return bytes per ms."""
    return float(case.about["balloon_bytes"] / case.stages_ms.sum())


def paper_cases() -> Iterator[Case]:
    """Yield the published cases; ``total`` is the stage of one that is not broken down."""
    for protocol in ("pfn", "bitmap-v4"):
        rows = published().query("protocol == @protocol").set_index("stage")
        yield Case(PAPER, protocol, rows["time_ms"], rows.iloc[0], rows["time_ms"][:0])


def measured_cases(frame: pd.DataFrame, source: str) -> Iterator[Case]:
    """Yield the cases measured at a source, of the repeat with the median total.

    Of an even number none has it: the lower one in the middle is scaled to it.
    """
    _check_frame(frame)
    rows = frame[frame["source"] == source]
    if rows.empty:
        sources = ", ".join(frame["source"].unique())
        raise ValueError(f"frame must hold cases of source {source!r}, got only those of {sources}")
    for (touched, state), protocol in product(STATES.items(), PROTOCOLS[source]):
        repeat = median_repeat(rows, protocol, touched)
        if len(repeat):
            run = rows[rows["run_id"] == repeat["run_id"].iloc[0]]
            totals_ms = run.groupby("repeat")["time_ns"].sum() / 1e6
            stages = stages_ms(repeat)
            stages *= totals_ms.median() / stages.sum()
            yield Case(f"{source}, {state}", protocol, stages, repeat.iloc[0], totals_ms)


def cases_beside_lab(frame: pd.DataFrame, source: str) -> Iterator[Case]:
    """Yield the cases measured at a source; before other sources' those of the lab's own run."""
    if source != "lab" and (lab := lab_beside(frame)):
        yield from measured_cases(lab.frame, "lab")
    yield from measured_cases(frame, source)


def lab_beside(frame: pd.DataFrame) -> Reproduction | None:
    """Load the lab's run that comes with balloonlab, where it is of the same sizes as a frame."""
    try:
        lab = Reproduction.load(datasets.path("headline"))
    except (FileNotFoundError, ValueError):  # none, or of an older balloonlab
        return None
    return lab if sizes_of(lab.frame) == sizes_of(frame) else None


def source_of(frame: pd.DataFrame) -> str:
    """Return the source of a frame's cases, the lab where it holds several."""
    _check_frame(frame)
    sources = frame["source"].unique()
    return "lab" if "lab" in sources else str(sources[0])


def sizes_of(frame: pd.DataFrame) -> tuple[int, int]:
    """Return memory and balloon in bytes as asked for, which ``pfn`` has and hinting comes near."""
    row = frame.iloc[(frame["protocol"] != "pfn").argmin()]  # the first row where there is no pfn
    return int(row["memory_bytes"]), int(row["balloon_bytes"])


def _check_frame(frame: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing or frame.empty:
        got = f"one without {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"frame must be the frame of a reproduction or a measurement, got {got}")


def median_repeat(frame: pd.DataFrame, protocol: str, touched: bool) -> pd.DataFrame:
    """Return the rows of the repeat with the (lower) median total; empty if there is none."""
    _check_frame(frame)
    rows = frame[(frame["protocol"] == protocol) & (frame["touched"] == touched)]
    n_cases = rows["run_id"].nunique()
    if n_cases > 1:
        raise ValueError(
            f"frame must hold one case for protocol={protocol!r}, touched={touched}, got "
            f"{n_cases} run_ids: choose the rows of one run first"
        )
    totals = rows.groupby("repeat")["time_ns"].sum().sort_values()
    return rows[rows["repeat"] == totals.index[(len(totals) - 1) // 2]] if len(rows) else rows
