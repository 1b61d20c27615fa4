"""The measured cases, step by step, what was published, and estimates over starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import datasets
from ..datasets import published
from ..measurement import estimates
from ..measurement.estimates import Array, Estimate
from ..measurement.reading import load
from ..measurement.run import differing
from ..measurement.tables import COLUMNS, as_frame
from ..sizes import PAGE_BYTES

STEPS = {
    "allocate": "allocate",
    "notify": "exits and wake-ups",
    "rest of send": "pack and decode",
    "translate": "translate",
    "discard": "discard",
    "unexplained": "remainder",
}
"""Steps of an inflation, and what each covers of a measured one."""

FOLDERS = {"lab": "headline", "kvm": "kvm", "linux": "linux", "qemu": "qemu"}
"""Where the headline's cases of each source are."""

STATES = {"untouched": False, "touched": True}

SIZES = {"memory_bytes": 0.0, "balloon_bytes": 0.01}
"""How far from the paper's sizes a case may be: hinting comes near the balloon's."""


class Sample(NamedTuple):
    """A measured case.

    Attributes
    ----------
    source, data, protocol, memory : str
        Who measured, the folder, and whether the host had pages behind ``touched`` memory.
    kind : str
        What the rows of `ns` are: ``starts`` of the process, each by its medians, or the
        ``repeats`` of one start.
    ns : array of float, shape (n, 6)
        ns per page, by the steps of `STEPS`.
    """

    source: str
    data: str
    protocol: str
    memory: str
    kind: str
    ns: npt.NDArray[np.float64]

    def summed(self, leave_out: int | None = None) -> Sample:
        """Return the sample of the steps' sum, shape (n, 1), one of them left out."""
        kept = [at for at in range(self.ns.shape[1]) if at != leave_out]
        return self._replace(ns=self.ns[:, kept].sum(axis=1, keepdims=True))


def shipped(source: str) -> pd.DataFrame:
    """Return the frame of the headline's cases of a source that comes with balloonlab."""
    return load(datasets.path(FOLDERS[source])).frame


def sample(frame: pd.DataFrame, source: str, protocol: str, memory: str) -> Sample | None:
    """Return the case of a source in a frame, of the paper's sizes; None where it has none.

    A ValueError where there are several that differ in more than the start.
    """
    if missing := [name for name in COLUMNS if name not in frame]:
        raise ValueError(f"frames must be of measurements, got one without {', '.join(missing)}")
    about = published().iloc[0]
    rows = frame[(frame["source"] == source) & (frame["protocol"] == protocol)]
    rows = rows[(rows["touched"] == STATES[memory]) & ~rows["thp"]]
    rows = rows[rows["operation"] == "inflate"]
    for name, tolerance in SIZES.items():
        rows = rows[np.isclose(rows[name], about[name], rtol=tolerance, atol=0)]
    if rows.empty:
        return None
    if differ := [name for name in differing(rows) if name not in SIZES]:
        raise ValueError(
            f"frames must hold one case of {source}, {protocol}, {memory}, got several that "
            f"differ in {', '.join(differ)}: select one"
        )
    start = ["run_id", *(["start"] if "start" in rows else [])]
    table = _by_repeat(rows, start)
    by_start = table.groupby(level=start).median()
    kind = "starts" if len(by_start) > 1 else "repeats"
    if kind == "starts":
        table = by_start
    return Sample(source, FOLDERS[source], protocol, memory, kind, table.to_numpy(float))


def _by_repeat(rows: pd.DataFrame, start: list[str]) -> pd.DataFrame:
    """Return ns per page: a row for each repeat, a column for each step."""
    send = rows["part"].map({"notify": "notify"}).fillna("rest of send")
    step = rows["stage"].replace("remainder", "unexplained")
    step = step.where(rows["stage"] != "send", send)
    table = rows.assign(step=step, ns=rows["time_ns"] / rows["n_pages"]).pivot_table(
        values="ns", index=[*start, "repeat"], columns="step", aggfunc="sum", fill_value=0.0
    )
    return table.reindex(columns=list(STEPS), fill_value=0.0)


class Cases:
    """The measured cases by source, protocol and memory; each is read once."""

    def __init__(self, frames: Mapping[str, Any] | None) -> None:
        given = {} if frames is None else {name: as_frame(one) for name, one in frames.items()}
        if unknown := [name for name in given if name not in FOLDERS]:
            raise ValueError(f"frames must be of {', '.join(FOLDERS)}, got {unknown[0]!r}")
        self._frames = {name: given.get(name) for name in FOLDERS}
        self._found: dict[tuple[str, str, str], Sample | None] = {}

    def find(self, source: str, protocol: str, memory: str) -> Sample | None:
        """Return a case, or None."""
        key = source, protocol, memory
        if key not in self._found:
            frame = self._frames[source]
            if frame is None:
                frame = self._frames[source] = shipped(source)
            self._found[key] = sample(frame, *key)
        return self._found[key]

    def __call__(self, source: str, protocol: str, memory: str) -> Sample:
        """Return a case that must be there, else a ValueError."""
        found = self.find(source, protocol, memory)
        if found is None:
            raise ValueError(
                f"frames must hold {protocol} on {memory} memory of {source} at the paper's "
                f"sizes, and do not: run balloonlab reproduce, or leave {source} to the data "
                "that come along"
            )
        return found


class Paper(NamedTuple):
    """The published times of a protocol, in ns per page."""

    stages_ns: dict[str, float]
    total_ns: float
    allocate_ns: float  # pfn's
    n_pages: int


def paper(protocol: str) -> Paper:
    """Return what was published of a protocol of 2016."""
    table = published()
    rows = table[table["protocol"] == protocol]
    n_pages = int(rows["balloon_bytes"].iloc[0]) // PAGE_BYTES
    ns = rows.set_index("stage")["time_ms"] * 1e6 / n_pages
    legacy = table[(table["protocol"] == "pfn") & (table["stage"] == "allocate")]
    allocate_ns = float(legacy["time_ms"].iloc[0]) * 1e6 / n_pages
    total = float(ns.sum())
    stages = {"allocate": allocate_ns, "rest": total - allocate_ns}
    if "total" not in ns:
        stages = dict(ns.rename({"remainder": "unexplained"}))
    return Paper(stages, total, allocate_ns, n_pages)


def estimate(samples: Sequence[Sample], of: Callable[..., Array | float]) -> Estimate:
    """Return a function of cases' steps as `balloonlab.measurement.estimates.estimate` does.

    Where a case is of one start alone, its repeats stand for starts, and their range is given.

    Parameters
    ----------
    samples : sequence of Sample
        None where the value is published.
    of : callable
        Takes an array of shape (..., 6) for each sample, ns per page by step.
    """
    kind = "repeats" if "repeats" in {one.kind for one in samples} else "starts"
    return estimates.estimate([one.ns for one in samples], of, kind)
