"""Signatures and docstrings of functions that take the options of a case."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, cleandoc, signature
from textwrap import fill, indent
from typing import Any, ParamSpec, TypeVar

from .options import TABLE, Row, check_known

P = ParamSpec("P")
R = TypeVar("R")


def takes_options(lists: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function that takes ``**options`` their signature, and their part of its docstring.

    Parameters
    ----------
    lists : bool
        Whether each option may also be a list of values.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kept = [p for p in signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        own = [p for p in kept if p.kind is p.KEYWORD_ONLY]
        options = [
            Parameter(
                name,
                Parameter.POSITIONAL_OR_KEYWORD
                if name in ("memory", "balloon") and len(own) == len(kept)
                else Parameter.KEYWORD_ONLY,
                default=row.default,
                annotation=_annotation(row, lists),
            )
            for name, row in TABLE.items()
        ]
        first = [p for p in kept if p.kind is not p.KEYWORD_ONLY]
        whole = signature(function).replace(parameters=[*first, *options, *own])

        @wraps(function)
        def taking(*args: P.args, **kwargs: P.kwargs) -> R:
            check_known(kwargs, whole.parameters)
            bound = whole.bind(*args, **kwargs).arguments
            return function(
                *[bound.pop(p.name) for p in first if p.name in bound],
                **bound,
            )

        taking.__signature__ = whole  # type: ignore[attr-defined]
        if taking.__doc__:
            taking.__doc__ = cleandoc(taking.__doc__).replace("{options}", _documented(lists))
        return taking

    return decorate


def _annotation(row: Row, lists: bool) -> Any:
    return row.hint | list[row.hint] if lists and row.listed else row.hint  # type: ignore[name-defined]


def _documented(lists: bool) -> str:
    """Return the options as numpydoc has them."""
    entries = []
    for name, row in TABLE.items():
        size = "int or str" if name == "memory" else "int, str or float"
        kinds = {"memory": size, "balloon": size, "pattern": "str or array-like of int"}
        one = "{" + ", ".join(map(repr, row.choices)) + "}" if row.choices else row.kind.__name__
        kind = kinds.get(name, one) + (", or a list of them" if lists and row.listed else "")
        kind += ", optional" if row.default is None else f", default {row.default!r}"
        limits = "" if row.most is None else f" From {row.least} to {row.most}."
        entries.append(f"{name} : {kind}\n{indent(fill(row.help + limits, 90), '    ')}")
    return "\n".join(entries)
