"""What-if: operations that nobody measured, as tidy frames whose source is ``model``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, product
from numbers import Real
from typing import Any, Unpack

import numpy as np
import pandas as pd

from ..executors import check_executor, spread
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..measurement.api import values_of
from ..measurement.case import Case, digest
from ..measurement.on_lab import FLOOR
from ..measurement.options import TABLE, Options, PathLike, check_choice, takes_options
from ..measurement.setups import make_case
from ..measurement.tables import COLUMNS
from ..sizes import format_measured
from .cost import CostModel, interval_of, load_model
from .counting import COUNTS, count
from .terms import COSTS, KICK, derived, measured_part

OWN = ("machine", "measured_as", "low_ns", "high_ns", "given_ns", "extrapolated")
"""Columns that a predicted frame has besides."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predicted operations.

    Attributes
    ----------
    frame : pandas.DataFrame
        The columns of a measured frame, ``source`` being ``model``, one repeat, no remainder; and
        ``machine`` and ``measured_as`` (the source) of the costs, ``low_ns`` and ``high_ns`` (95 %
        of such measurements are between them), ``given_ns`` (what of the time is by costs that the
        caller gave, and so no prediction), and ``extrapolated``: in what the case is beyond what
        was fitted, empty where it is not.
    totals : pandas.DataFrame
        One row per case: what it is, ``time_ns``, ``low_ns``, ``high_ns``, ``given_ns``,
        ``extrapolated``. Intervals of a sum are no sums.
    """

    frame: pd.DataFrame
    totals: pd.DataFrame

    def __repr__(self) -> str:
        lines = [
            f"{row.memory_bytes >> 20} MiB {row.pattern}, {row.protocol} by {row.discard}: "
            f"{format_measured(row.time_ns / 1e6)} ms ({format_measured(row.low_ns / 1e6)} to "
            f"{format_measured(row.high_ns / 1e6)}; model)"
            for row in self.totals.itertuples()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return str(self.totals.to_html(index=False))


@dataclass(frozen=True)
class _Asked:
    """What is asked about each case."""

    model: CostModel
    machine: str | None
    given: Mapping[str, float]
    extrapolate: bool

    def answer(self, case: Case) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Count a case and predict it."""
        units = count(case)
        about = case.described(skipped=True)
        row = derived(pd.DataFrame([about | units])).iloc[0].to_dict()
        row["machine"] = self.model.machine_of(case.source, self.machine)
        known = row if row["protocol"] in ("pfn", FLOOR) else row | {"message": "records"}
        beyond = self.model.beyond(known)
        if beyond and not self.extrapolate:
            raise ValueError(
                f"{case.label()} is beyond what the model was fitted to, in {', '.join(beyond)}: "
                "pass extrapolate=True to have it predicted, and said so"
            )
        times = self.model.times(known, self.given)
        rows = []
        for (stage, part), together in groupby(times, lambda time: measured_part(*time[:2])):
            same = list(together)
            given_ns = sum(time.given_ns for time in same)
            low, high = interval_of(sum(time.draws for time in same) + given_ns)
            rows.append(
                {
                    "stage": stage, "part": part, "low_ns": low, "high_ns": high,
                    "time_ns": sum(time.fitted_ns for time in same) + given_ns,
                    "given_ns": given_ns,
                }
            )  # fmt: skip
        spoken = "" if case.protocol == FLOOR else case.protocol
        common = about | {name: units[name] for name in COUNTS}
        common |= {
            "source": "model", "measured_as": case.source, "machine": row["machine"],
            "start": 0, "repeat": 0,
            "run_id": digest(repr((case, sorted(self.given.items()), row["machine"])).encode()),
            "negotiated_protocol": spoken, "n_bitmaps": 0 if spoken in ("", "pfn") else MAX_BITMAPS,
            "extrapolated": "; ".join(beyond),
        }  # fmt: skip
        frame = pd.DataFrame(rows).assign(**common)
        low, high = interval_of(sum(time.draws + time.given_ns for time in times))
        total = common | {name: float(frame[name].sum()) for name in ("time_ns", "given_ns")}
        return frame[[*COLUMNS, *OWN]], total | {"low_ns": low, "high_ns": high}


@takes_options(lists=True)
def predict(
    *,
    model: CostModel | PathLike | None = None,
    machine: str | None = None,
    costs: Mapping[str, float] | None = None,
    extrapolate: bool = False,
    executor: Any = None,
    **options: Unpack[Options[list[Any] | tuple[Any, ...]]],
) -> Prediction:
    """Predict an operation without its memory, from 1 GiB to 64 TiB: every combination of values.

    Messages and calls are counted exactly (`balloonlab.model.counts`); what they cost is fitted to
    measurements. The interval has the errors of the costs, the difference between runs and that
    between cases in it.

    Parameters
    ----------
    {options}
    model : CostModel or path-like, optional
        Whose costs: what `balloonlab.calibrate` stored for one's own machine, or what
        `balloonlab.model.fit` returned. By default costs fitted to all shipped runs.
    machine : str, optional
        Which of the model's machines; by default the one with the most cases of that source.
    costs : mapping of str to float, optional
        Unit costs in ns that stand in the place of the fitted ones, by the names of
        `balloonlab.model.COSTS`: ``{"exit": 5_000, "discard": 800}``; ``kick`` stands for all that
        a kick takes, exit and wake-ups. They are exact: intervals are of the rest, ``given_ns`` is
        what they make up.
    extrapolate : bool
        Predict, too, what is beyond the cases that the model was fitted to, and flag it.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Where cases are counted; the numbers do not depend on it.

    Returns
    -------
    Prediction

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule; nothing like the case was measured, or its counts are beyond what
        was fitted.

    Examples
    --------
    >>> import balloonlab as bl
    >>> found = bl.predict("8GiB", "7GiB", protocol=["pfn", "bitmap-v4"])
    >>> found.totals["source"].unique().tolist()
    ['model']
    >>> what_if = bl.predict("8GiB", "7GiB", protocol="pfn", costs={"kick": 393_000})
    >>> what_if.totals["given_ns"].item() / 1e6
    2817.024
    """
    given = dict(costs or {})
    for name, ns in given.items():
        check_choice("costs", name, [*COSTS, KICK])
        if not isinstance(ns, Real) or not 0 <= ns < np.inf:
            raise ValueError(f"costs must be ns of at least 0, got {name}={ns!r}")
    check_executor(executor)
    fitted = model if isinstance(model, CostModel) else load_model(model)
    axes = {name: values_of(name, options.get(name, row.default)) for name, row in TABLE.items()}
    cases = [
        make_case(**dict(zip(axes, values, strict=True))) for values in product(*axes.values())
    ]
    if "exit" in given and all(case.source != "kvm" for case in cases):
        raise ValueError("costs must have no exit without guest='kvm': no thread leaves one")
    asked = _Asked(fitted, machine, given, extrapolate)
    answers = spread(asked.answer, dict.fromkeys(cases), executor)
    totals = pd.DataFrame([total for _, total in answers])
    shown = [name for name in [*COLUMNS, *OWN] if name in totals and name not in ("stage", "part")]
    return Prediction(pd.concat([frame for frame, _ in answers], ignore_index=True), totals[shown])
