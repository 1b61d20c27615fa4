"""Signatures and docstrings of functions that take the options of a case."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, cleandoc, signature
from textwrap import fill, indent
from typing import ParamSpec, TypeVar

from .options import TABLE, Option, check_known

P = ParamSpec("P")
R = TypeVar("R")

_KINDS = dict.fromkeys(("memory", "balloon"), Parameter.POSITIONAL_OR_KEYWORD)
_TYPES = {"memory": "int or str", "balloon": "int, str or float", "pattern": "str or array-like"}


def takes_options(lists: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function that takes ``**options`` their signature, and their part of its docstring.

    With `lists` each option may also be a list of values.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        bare = signature(function)
        own = [p for p in bare.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [_parameter(row, lists and row.listed) for row in TABLE.values()]
        whole = bare.replace(parameters=[*options, *own])

        @wraps(function)
        def taking(*args: P.args, **kwargs: P.kwargs) -> R:
            check_known(kwargs, whole.parameters)
            return function(**whole.bind(*args, **kwargs).arguments)  # type: ignore[call-arg]

        taking.__signature__ = whole  # type: ignore[attr-defined]
        if taking.__doc__:
            taking.__doc__ = cleandoc(taking.__doc__).replace("{options}", _documented(lists))
        return taking

    return decorate


def _parameter(row: Option, listed: bool) -> Parameter:
    kind = _KINDS.get(row.name, Parameter.KEYWORD_ONLY)
    hint = row.hint | list[row.hint] if listed else row.hint  # type: ignore[name-defined]
    return Parameter(row.name, kind, default=row.default, annotation=hint)


def _documented(lists: bool) -> str:
    """Return the options as numpydoc has them."""
    entries = []
    for name, row in TABLE.items():
        words = "{" + ", ".join(map(repr, row.choices)) + "}"
        one = words if row.choices else _TYPES.get(name, row.kind.__name__)
        kind = one + (", or a list of them" if lists and row.listed else "")
        kind += ", optional" if row.default is None else f", default {row.default!r}"
        limits = "" if row.most is None else f" From {row.least} to {row.most}."
        entries.append(f"{name} : {kind}\n{indent(fill(row.help + limits, 90), '    ')}")
    return "\n".join(entries)
