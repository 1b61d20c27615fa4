"""The campaign: every start of the plan, what is missing or noisy again, then rows joined."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .. import datasets
from ..measurement.options import PathLike, check_number
from ..measurement.provenance import describe_machine
from ..measurement.reading import META, check_alike
from ..measurement.resources import check_facilities
from ..measurement.store import FIGURE, Store
from . import drift
from .joining import UnlikeStartsError, join, joined_id
from .plan import REFERENCE, Row, Unit, order, rows_of
from .start import LIMITS, MARK, StartError, Stored, find, measure

STATE, STARTS, DRIFT = "campaign.json", "starts", "drift.csv"

REFERENCE_EVERY_S = {False: 240.0, True: 90.0}
"""How long after the last reference the next one is due; in a quick campaign sooner."""

PASSES = {False: 2, True: 1}
"""How often a call tries what is missing or noisy."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Campaign:
    """What a campaign has.

    Attributes
    ----------
    folder : pathlib.Path
    rows : pandas.DataFrame
        A row per folder of the plan: ``folder``, ``starts``, ``whole`` (of them), ``noisy`` (beyond
        the limits of noise), ``minutes``, ``problem`` (why there is no such folder; else empty).
    drift : list of dict
        Of the reference case, by protocol: `balloonlab.campaign.drift.summary`.
    """

    folder: Path
    rows: pd.DataFrame
    drift: list[dict[str, Any]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether every row is there, and none of its starts beyond the limits."""
        return not (self.rows["problem"].ne("").any() or self.rows["noisy"].any())

    def __repr__(self) -> str:
        there, noisy = (self.rows["problem"] == "").sum(), self.rows["noisy"].sum()
        return f"<Campaign: {there} of {len(self.rows)} folders in {self.folder}, {noisy} noisy>"


Say = Callable[[str], object]


def run(
    out: PathLike,
    quick: bool = False,
    only: str | Iterable[str] = (),
    seed: int = 0,
    say: Say = log.info,
) -> Campaign:
    """Measure the data that come with balloonlab: all starts of a plan, each a process of its own.

    Starts of all rows interleave in a random order. Each is stored as soon as it is whole; the same
    call goes on where it stopped, and measures again whatever is missing, broken, or beyond
    `balloonlab.campaign.LIMITS` of noise. At the end the starts of a row are joined into a folder
    of its name, as its function alone would have written, with a column ``start``.

    Parameters
    ----------
    out : path-like
        Folder of the campaign.
    quick : bool
        Every case in small guests, one or two starts of each row: minutes, to see that all works.
    only : str or iterable of str
        Rows of `balloonlab.campaign.PLAN`; all by default.
    seed : int
        Of the order.
    say : callable
        Is called with a line of text for each start.

    Returns
    -------
    Campaign

    Raises
    ------
    ValueError
        `out` is no folder, holds what this campaign did not write, or one of another machine, code,
        seed or mode.
    NotImplementedError
        The platform lacks what measuring needs.

    Examples
    --------
    >>> done = run("campaign", quick=True, only="runs")  # doctest: +SKIP
    >>> bl.load("campaign/runs")  # doctest: +SKIP
    """
    check_number("seed", seed, 0)
    check_facilities()
    rows = rows_of(only)
    folder = _check_folder(out)
    store = Store(folder)
    with store.locked():
        state = _begin(store, quick, seed, rows)
        runner = _Runner(folder, state, say)
        runner.measure(order(rows, seed, quick))
        return runner.join(rows)


def _check_folder(out: PathLike) -> Path:
    """Refuse what cannot be a campaign's folder, before the work."""
    folder = Path(out)
    if not os.fspath(out) or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"out must name a folder for the campaign, got {str(out)!r}")
    if (folder / META).exists():
        raise ValueError(f"out={str(out)!r} holds a run ({META}): choose another folder")
    return folder


def _begin(store: Store, quick: bool, seed: int, rows: list[Row]) -> dict[str, Any]:
    """Start the campaign of a folder or go on with it; refuses another one (ValueError)."""
    asked = {"quick": bool(quick), "seed": int(seed)}
    machine, where = describe_machine(), f"out={str(store.folder)!r}"
    state: dict[str, Any] = {"id": uuid.uuid4().hex, **asked, "limits": LIMITS, "machine": machine}
    path = store.folder / STATE
    if path.exists():
        try:
            state = json.loads(path.read_text())
            before, measured_on = {name: state[name] for name in asked}, state["machine"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged: choose another folder") from None
        if before != asked:
            raise ValueError(
                f"{where} holds a campaign with {before}, this one has {asked}: repeat its "
                "arguments to go on, or choose another folder"
            )
        check_alike({where: measured_on, "this call": machine}, "choose another folder")
    for name in (row.name for row in (*rows, REFERENCE)):
        if joined_id(store.folder / name) not in (None, state["id"]):
            raise ValueError(
                f"{where} holds a folder {name} that this campaign did not make: choose another "
                "folder, and copy the results from there"
            )
    store.replace(STATE, json.dumps(state, indent=2) + "\n")
    return state


class _Runner:
    """Measures starts into a campaign's folder, and joins them."""

    def __init__(self, folder: Path, state: dict[str, Any], say: Say) -> None:
        self.folder, self.state, self.quick, self.say = folder, state, state["quick"], say
        self.problems: dict[str, str] = {}
        self.last_reference: float | None = None

    def _folder_of(self, row: Row, number: int) -> Path:
        return self.folder / STARTS / row.name / str(number)

    def stored(self, row: Row, number: int) -> Stored | None:
        """Return a start of a row, if it is there and whole."""
        arguments = row.arguments_of(self.quick)
        return find(self._folder_of(row, number), row.function, arguments)

    def measure(self, units: list[Unit]) -> None:
        """Measure what is missing or noisy, with the reference between; at most so many passes."""
        for number in range(PASSES[self.quick]):
            todo = [unit for unit in units if self._is_due(unit)]
            if todo and number:
                self.say(f"once more: {len(todo)} starts that failed or were noisy")
            for done, unit in enumerate(todo):
                self._watch_drift()
                self._measure(unit, f"{done + 1} of {len(todo)}: ")
            if todo:
                self._watch_drift(at_once=True)

    def _is_due(self, unit: Unit) -> bool:
        there = self.stored(*unit)
        return there is None or bool(there.beyond)

    def _measure(self, unit: Unit, place: str) -> None:
        row, number = unit
        there = self.stored(row, number)
        tries = there.mark.get("tries", 1) + 1 if there else 1
        of = "" if row is REFERENCE else f" of {row.starts_of(self.quick)}"
        name = f"{place}{row.name}, start {number + 1}{of}"
        try:
            done = measure(
                self._folder_of(row, number), row.function, row.arguments_of(self.quick), number,
                f"{self.state['id']}-{row.name}", tries,
            )  # fmt: skip
        except StartError as error:
            self.problems[row.name] = str(error)
            self.say(f"{name}: FAILED, {error}")
            return
        noise = f"; noisy: {', '.join(done.beyond)}" if done.beyond else ""
        self.say(f"{name}: {done.mark['seconds']:.1f} s{noise}")

    def references(self) -> dict[int, Stored]:
        """Return the references that are there, by number."""
        names = (self.folder / STARTS / REFERENCE.name).glob("[0-9]*")
        numbers = sorted(int(path.name) for path in names if path.name.isdecimal())
        found = {number: self.stored(REFERENCE, number) for number in numbers}
        return {number: one for number, one in found.items() if one}

    def _watch_drift(self, at_once: bool = False) -> None:
        """Measure the reference if the last one is long ago."""
        last, now = self.last_reference, time.monotonic()
        due = last is None or at_once or now - last > REFERENCE_EVERY_S[self.quick]
        if due:
            number = 1 + max(self.references(), default=-1)
            self._measure(Unit(REFERENCE, number), "")
            self.last_reference = time.monotonic()

    def join(self, rows: list[Row]) -> Campaign:
        """Join the rows of which all starts are there; store the drift."""
        references = self.references()
        table = drift.drift_table(references)
        found = drift.summary(table)
        store = Store(self.folder)
        store.write(table, DRIFT)
        store.replace(STATE, json.dumps(self.state | {"drift": found}, indent=2) + "\n")
        about = {name: self.state[name] for name in ("id", "quick", "seed", "limits")}
        meta = {"campaign": about | {"drift": found}, "finished": True}
        if references:
            join(references, self.folder / REFERENCE.name, meta)
        summary = pd.DataFrame([self._join_row(row, meta) for row in rows])
        self._draw(rows)
        return Campaign(self.folder, summary, found)

    def _join_row(self, row: Row, meta: dict[str, Any]) -> dict[str, Any]:
        n = row.starts_of(self.quick)
        starts = {number: one for number in range(n) if (one := self.stored(row, number))}
        seconds = sum(one.mark["seconds"] for one in starts.values())
        noisy = sum(bool(one.beyond) for one in starts.values())
        about = {"folder": row.name, "starts": n, "whole": len(starts), "noisy": noisy}
        problem = ""
        if len(starts) < n:
            problem = self.problems.get(row.name, f"{n - len(starts)} starts are missing")
        else:
            try:
                join(starts, self.folder / row.name, meta)
            except UnlikeStartsError as error:
                problem = str(error)
                for number in error.numbers:  # the next call measures them again
                    (starts[number].folder / MARK).unlink()
        return about | {"minutes": seconds / 60, "problem": problem}

    def _draw(self, rows: list[Row]) -> None:
        """Draw the figure of each reproduction, beside the lab's of this campaign."""
        import matplotlib.pyplot as plt

        from ..figures import headline, save
        from ..measurement.reading import load

        for row in rows:
            place = self.folder / row.name
            if row.function == "reproduce" and joined_id(place) == self.state["id"]:
                with datasets.first(self.folder):
                    ax = headline(load(place))
                save(ax, place / FIGURE)
                plt.close(ax.get_figure(root=True))
