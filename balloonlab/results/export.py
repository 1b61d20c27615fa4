"""Numbers into prose: by name into text, all of them into JSON and LaTeX."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter

from .. import datasets
from . import (
    encoding_numbers,
    floor_numbers,
    freed_numbers,
    guest_numbers,
    headline_numbers,
    kvm_numbers,
    model_numbers,
    since_numbers,
    sweep_numbers,
)
from .number import Number

JSON, LATEX = "numbers.json", "numbers.tex"

MODULES = (
    headline_numbers,
    since_numbers,
    kvm_numbers,
    sweep_numbers,
    floor_numbers,
    freed_numbers,
    encoding_numbers,
    model_numbers,
    guest_numbers,
)


@cache
def all_numbers() -> dict[str, Number]:
    """Compute the numbers of README and notebooks from ``data/``: some thousand, in half a minute.

    Examples
    --------
    >>> all_numbers()["paper_pfn_ms"].text  # doctest: +SKIP
    '4,126 ms'
    """
    return dict(pair for module in MODULES for part in module.PARTS for pair in part())


def shipped(file: str = JSON) -> dict[str, Number]:
    """Read the numbers as `write` stored them: at once, where computing them takes half a minute.

    A test holds those of ``numbers.json`` to what `all_numbers` computes; ``numbers-epyc.json`` has
    those of an earlier campaign, on another machine.
    """
    rows = json.loads(datasets.path(file).read_text())
    return {
        name: Number(**{field: row[field] for field in Number._fields})
        for name, row in rows.items()
    }


class Rendered(str):
    """Text that notebooks show as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def render(template: str, numbers: Mapping[str, Number] | None = None) -> Rendered:
    """Fill the names of numbers into a text.

    Parameters
    ----------
    template : str
        Markdown; ``{headline_touched_ratio}`` stands for that number with its unit and interval,
        ``{headline_touched_ratio:range}`` for the interval alone.
    numbers : mapping of str to Number, optional
        Those of the data that come with balloonlab, by default.

    Returns
    -------
    str
        Shown as Markdown by notebooks. KeyError where there is no number of a name.

    Examples
    --------
    >>> known = {"paper_pfn_ms": Number(4126, "ms", "paper", "published.csv", "7 of 8 GiB")}
    >>> print(render("The old driver took {paper_pfn_ms}.", known))
    The old driver took 4,126 ms.
    """
    wanted = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    known = shipped() if numbers is None else numbers
    for wrong in (name for name in wanted if name not in known):
        nearest = ", ".join(difflib.get_close_matches(wrong, known)) or "none"
        rule = "template must name numbers of balloonlab.results.all_numbers()"
        raise KeyError(f"{rule}, got {wrong!r}; similar: {nearest}")
    return Rendered(template.format_map({name: known[name] for name in wanted}))


def write(
    folder: str | os.PathLike[str],
    numbers: Mapping[str, Number] | None = None,
    macro: str = "balloonlab",
) -> None:
    r"""Write ``numbers.json`` and, for LaTeX, ``numbers.tex``.

    ``\input{numbers.tex}``, then ``\balloonlab{headline_touched_ratio}`` is the number,
    its unit and its interval, and ``\balloonlab*{...}`` nothing but the number.

    Parameters
    ----------
    folder : path-like
        Made if need be; NotADirectoryError if it is a file.
    numbers : mapping of str to Number, optional
        Those of the data that come with balloonlab, by default.
    macro : str
        Name of the LaTeX macro, of letters only (else ValueError): another one for numbers of a
        run of your own, which can then stand beside the shipped ones.
    """
    if not (macro.isascii() and macro.isalpha()):
        raise ValueError(f"macro must be of ASCII letters only, as LaTeX has it, got {macro!r}")
    path = Path(folder)
    if path.is_file():
        raise NotADirectoryError(f"folder must be a folder, got the file {path}: name another")
    known = all_numbers() if numbers is None else numbers
    path.mkdir(parents=True, exist_ok=True)
    (path / JSON).write_text(to_json(known))
    (path / LATEX).write_text(to_latex(known, macro))


def to_json(numbers: Mapping[str, Number]) -> str:
    """Write numbers as JSON, values to nine digits: the rest differs between machines."""
    rows = {
        name: number._asdict() | _rounded(number) | {"text": number.text}
        for name, number in numbers.items()
    }
    return json.dumps(rows, indent=1) + "\n"


def _rounded(number: Number) -> dict[str, float]:
    given = {name: getattr(number, name) for name in ("value", "low", "high")}
    return {name: float(f"{value:.9g}") for name, value in given.items() if value is not None}


def to_latex(numbers: Mapping[str, Number], macro: str = "balloonlab") -> str:
    """Write numbers as LaTeX macros, by the same names."""
    lines = [
        f"% The numbers of balloonlab, made from data/: \\{macro}{{name}} with unit and interval,",
        f"% \\{macro}*{{name}} without; what each means stands beside it.",
        "\\makeatletter",
        f"\\newcommand{{\\{macro}}}{{\\@ifstar{{\\{macro}@bare}}{{\\{macro}@full}}}}",
        *(
            f"\\newcommand{{\\{macro}@{form}}}[1]{{\\@ifundefined{{{macro}@{form}@#1}}"
            f"{{\\errmessage{{{macro} has no number #1}}}}"
            f"{{\\@nameuse{{{macro}@{form}@#1}}}}}}"
            for form in ("full", "bare")
        ),
    ]
    for name, number in numbers.items():
        value = f"{number.bare}~{number.unit}".removesuffix("~")
        full = value + number.text.removeprefix(value.replace("~", " "))
        full = full.replace("%", "\\%")
        note = f"% {number.source}: {number.means}"
        lines += [
            f"\\@namedef{{{macro}@full@{name}}}{{{full}}} {note}",
            f"\\@namedef{{{macro}@bare@{name}}}{{{number.bare}}}",
        ]
    return "\n".join([*lines, "\\makeatother", ""])
