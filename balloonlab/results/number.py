"""A number of prose: value, interval, unit and source, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..measurement.estimates import Estimate, estimate, middle
from ..measurement.starts import case_times, kind_of, unit_of
from ..sizes import format_measured, format_number

SHORT = {
    "pfn": "pfn",
    "bitmap-v4": "bitmap",
    "reporting": "reporting",
    "hinting": "hinting",
    "madvise": "floor",
}
STATES = {True: "touched", False: "untouched"}
"""Protocols, and whether the host had pages behind the guest, in names of numbers."""


class Number(NamedTuple):
    """A number that prose may state.

    A format chooses what is said of it: ``{name}`` is value and interval, as ``4.1 times (3.9 to
    4.4)``, ``{name:range}`` the interval alone, ``3.9 to 4.4 times``.

    Attributes
    ----------
    value : float
    unit : str
        As written behind it; empty for a count.
    source : str
        ``paper``, ``lab``, ``kvm``, ``linux``, ``qemu``, ``trace`` or ``model``.
    data : str
        File or folder of ``data/`` that it is computed from; empty where it needs no data.
    means : str
        What it is.
    low, high : float, optional
        Ends of the interval of what was measured or predicted; None of what is exact: published,
        counted, or a property of pages.
    interval : str
        What that is, as ``95 % of 10 starts``.
    """

    value: float
    unit: str
    source: str
    data: str
    means: str
    low: float | None = None
    high: float | None = None
    interval: str = ""

    @property
    def text(self) -> str:
        """The number as prose has it.

        Where it has an interval, two digits, and both ends unless they are the same by these; else
        three digits, of most percentages two.
        """
        text = self._with_unit(self.bare)
        if self.low is None or self.high is None:
            return text
        low, high = (format_measured(end, self.unit) for end in (self.low, self.high))
        return text if low == high == self.bare else f"{text} ({low} to {high})"

    @property
    def bare(self) -> str:
        """The value without unit and interval."""
        exact = self.low is None or self.high is None
        return _exact(self.value, self.unit) if exact else format_measured(self.value, self.unit)

    @property
    def range(self) -> str:
        """Both ends of the interval, two digits each; one where they are the same by these."""
        if self.low is None or self.high is None:
            raise ValueError(f"an exact number has no range, got {self.means!r}: leave out :range")
        low, high = (format_measured(end, self.unit) for end in (self.low, self.high))
        return self._with_unit(low if low == high else f"{low} to {high}")

    def __format__(self, spec: str) -> str:
        if spec not in ("", "range"):
            raise ValueError(f"a number is written as {{name}} or {{name:range}}, got {spec!r}")
        return self.range if spec else self.text

    def _with_unit(self, text: str) -> str:
        return f"{text} {self.unit}".rstrip()


def _exact(value: float, unit: str) -> str:
    nearly_all = 99 < value < 100  # "100 %" would be wrong
    return format_number(value, 2 if unit == "%" and not nearly_all else 3)


Named: TypeAlias = tuple[str, Number]
Numbers: TypeAlias = Iterator[Named]


def number(source: str, data: str, name: str, value: float, unit: str, *means: str) -> Named:
    """Make an exact named number whose meaning is put together of several parts."""
    return name, Number(float(value), unit, source, data, ", ".join(means))


def estimated(source: str, data: str, name: str, of: Estimate, unit: str, *means: str) -> Named:
    """Make a named number that has an interval."""
    value, low, high = (float(one) for one in of[:3])
    return name, Number(value, unit, source, data, ", ".join(means), low, high, of.interval)


class Starts:
    """Estimates over the process starts of a table; of a single start over its repeats.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy frame, or another table with ``repeat`` and, of several starts, ``start``.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.kind = kind_of(frame)

    def times(self, by: list[str], rows: pd.DataFrame | None = None) -> pd.Series:
        """Return ns of each start by these columns, which tell all cases apart (ValueError)."""
        return case_times(self.frame if rows is None else rows, by)

    def medians(self, by: list[str]) -> pd.DataFrame:
        """Return the medians of each start, index `by` and ``start``; of one start its repeats."""
        unit = unit_of(self.frame)
        rows = self.frame.groupby([*by, unit], sort=False).median(numeric_only=True)
        return rows.rename_axis(index={unit: "start"}).sort_index()

    def estimate(self, samples: Sequence[npt.ArrayLike], of: Callable[..., Any]) -> Estimate:
        """Return a function of the medians of some values, with its interval."""
        return estimate([np.asarray(one, float) for one in samples], of, self.kind)

    def middle(self, values: npt.ArrayLike, scale: float = 1.0) -> Estimate:
        """Return the median of values, times a scale, with its interval."""
        return middle(scale * np.asarray(values, float), self.kind)

    def over(self, top: npt.ArrayLike, bottom: npt.ArrayLike) -> Estimate:
        """Return the ratio of two medians, with its interval."""
        return self.estimate([top, bottom], lambda a, b: a / b)


def short(text: str) -> str:
    """Return a text as part of a number's name."""
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")
