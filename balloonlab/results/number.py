"""A number of prose: value, unit and source, and how it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from ..sizes import format_number

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
    """

    value: float
    unit: str
    source: str
    data: str
    means: str

    @property
    def text(self) -> str:
        """The number as prose has it: three digits, of most percentages two, and the unit."""
        nearly_all = 99 < self.value < 100  # "100 %" would be wrong
        digits = 2 if self.unit == "%" and not nearly_all else 3
        return f"{format_number(self.value, digits)} {self.unit}".rstrip()


Named: TypeAlias = tuple[str, Number]
Numbers: TypeAlias = Iterator[Named]


def number(source: str, data: str, name: str, value: float, unit: str, *means: str) -> Named:
    """Make a named number whose meaning is put together of several parts."""
    return name, Number(float(value), unit, source, data, ", ".join(means))
