"""Numbers of prose: value, unit and source, by one name in README, notebooks and LaTeX."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

JSON, LATEX = "numbers.json", "numbers.tex"

SHORT = {"pfn": "pfn", "bitmap-v4": "bitmap", "reporting": "reporting", "madvise": "floor"}
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
        ``paper``, ``lab``, ``qemu``, ``trace`` or ``model``.
    data : str
        File or folder of ``data/`` that it is computed from.
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
        """The number as prose has it: three digits, of most per cents two, and the unit."""
        nearly_all = 99 < self.value < 100  # "100 %" would be wrong
        digits = 2 if self.unit == "%" and not nearly_all else 3
        whole = float(self.value).is_integer() or abs(self.value) >= 10 ** (digits - 1)
        number = f"{self.value:,.0f}" if whole else f"{self.value:.{digits}g}"
        return f"{number} {self.unit}".rstrip()


Named: TypeAlias = Iterator[tuple[str, Number]]


class Said(str):
    """Text that notebooks show as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def say(template: str, numbers: Mapping[str, Number] | None = None) -> Said:
    """Fill the names of numbers into a text.

    Parameters
    ----------
    template : str
        Markdown; ``{headline_touched_ratio}`` stands for that number with its unit.
    numbers : mapping of str to Number, optional
        Those of the data that come with balloonlab, by default.

    Returns
    -------
    str
        Shown as Markdown by notebooks.

    Raises
    ------
    KeyError
        There is no number of a name.

    Examples
    --------
    >>> print(say("The old driver took {paper_pfn_ms}."))
    The old driver took 4,126 ms.
    """
    from .results import results

    known = results() if numbers is None else numbers
    return Said(template.format_map({name: number.text for name, number in known.items()}))


def write_numbers(
    folder: str | os.PathLike[str], numbers: Mapping[str, Number] | None = None
) -> None:
    r"""Write ``numbers.json`` and, for LaTeX, ``numbers.tex``.

    ``\input{numbers.tex}``, then ``\balloonlab{headline_touched_ratio}`` is the number and
    its unit, and ``\balloonlab*{...}`` nothing but the number.

    Parameters
    ----------
    folder : path-like
        Made if need be.
    numbers : mapping of str to Number, optional
        Those of the data that come with balloonlab, by default.
    """
    from .results import results

    known = results() if numbers is None else numbers
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / JSON).write_text(to_json(known))
    (path / LATEX).write_text(to_latex(known))


def to_json(numbers: Mapping[str, Number]) -> str:
    """Write numbers as JSON, values to nine digits: the rest is not the same everywhere."""
    rows = {
        name: {
            **number._asdict(),
            "value": float(f"{number.value:.9g}"),
            "text": number.text,
        }
        for name, number in numbers.items()
    }
    return json.dumps(rows, indent=1) + "\n"


def to_latex(numbers: Mapping[str, Number]) -> str:
    """Write numbers as LaTeX macros, by the same names."""
    lines = [
        "% The numbers of balloonlab, made from data/: \\balloonlab{name} with the unit,",
        "% \\balloonlab*{name} without; what each means stands beside it.",
        "\\makeatletter",
        "\\newcommand{\\balloonlab}{\\@ifstar{\\balloonlab@bare}{\\balloonlab@full}}",
        *(
            f"\\newcommand{{\\balloonlab@{form}}}[1]{{\\@ifundefined{{balloonlab@{form}@#1}}"
            "{\\errmessage{balloonlab has no number #1}}"
            f"{{\\@nameuse{{balloonlab@{form}@#1}}}}}}"
            for form in ("full", "bare")
        ),
    ]
    for name, number in numbers.items():
        bare, unit = number.text.removesuffix(number.unit).rstrip(), number.unit
        full = f"{bare}~{unit}" if unit else bare
        lines += [
            f"\\@namedef{{balloonlab@full@{name}}}{{{_escape(full)}}}"
            f" % {number.source}: {number.means}",
            f"\\@namedef{{balloonlab@bare@{name}}}{{{bare}}}",
        ]
    return "\n".join([*lines, "\\makeatother", ""])


def _escape(text: str) -> str:
    return text.replace("%", "\\%")
