"""Numbers into prose: by name into text, all of them into JSON and LaTeX."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from . import guest_numbers, headline_numbers, model_numbers, sweep_numbers
from .number import Number

JSON, LATEX = "numbers.json", "numbers.tex"

PARTS = (headline_numbers, sweep_numbers, model_numbers, guest_numbers)


@cache
def all_numbers() -> dict[str, Number]:
    """Compute every number that the README and the notebooks state, from ``data/``.

    Returns
    -------
    dict of str to Number
    """
    return dict(pair for part in PARTS for pair in part.numbers())


class Rendered(str):
    """Text that notebooks show as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def render(template: str, numbers: Mapping[str, Number] | None = None) -> Rendered:
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
    >>> known = {"paper_pfn_ms": Number(4126, "ms", "paper", "published.csv", "7 of 8 GiB")}
    >>> print(render("The old driver took {paper_pfn_ms}.", known))
    The old driver took 4,126 ms.
    """
    known = all_numbers() if numbers is None else numbers
    texts = {name: number.text for name, number in known.items()}
    try:
        return Rendered(template.format_map(texts))
    except KeyError as error:
        wrong = str(error.args[0])
        nearest = ", ".join(difflib.get_close_matches(wrong, texts)) or "none"
        raise KeyError(
            f"template must name numbers of balloonlab.results.all_numbers(), got {wrong!r}; "
            f"similar: {nearest}"
        ) from None


def write(folder: str | os.PathLike[str], numbers: Mapping[str, Number] | None = None) -> None:
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
    known = all_numbers() if numbers is None else numbers
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
