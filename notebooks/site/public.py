"""What is public: every part and name of balloonlab, where it is documented, and its docstring."""

import inspect
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from sphinx.pycode import ModuleAnalyzer

import balloonlab as bl

INSIDE = ("pages", "pages.metrics", "queue", "guest", "host", "measurement")
"""Parts on the way of a page number that are no names of `balloonlab` itself."""


@dataclass(frozen=True)
class Name:
    """A public name and where it is documented: `full` is the dotted name."""

    full: str
    value: Any
    doc: str

    @property
    def summary(self) -> str:
        """Return the first paragraph of the docstring, on one line."""
        return " ".join(self.doc.strip().split("\n\n")[0].split())

    @property
    def directive(self) -> str:
        """Return how Sphinx documents it."""
        if inspect.isclass(self.value) and self.value.__module__.startswith("balloonlab"):
            return "autoexception" if issubclass(self.value, BaseException) else "autoclass"
        return "autofunction" if callable(self.value) else "py:data"


def public_parts() -> list[ModuleType]:
    """List the parts that are names of `balloonlab`, in their order."""
    values = [getattr(bl, name) for name in sorted(bl.__all__)]
    return [value for value in values if inspect.ismodule(value)]


def parts() -> list[ModuleType]:
    """List the public parts, then those inside."""
    return [*public_parts(), *(import_module(f"balloonlab.{name}") for name in INSIDE)]


@cache
def names() -> dict[str, Name]:
    """Return every public name that is no part; two names of the same are documented once."""
    values = {
        (owner, name): getattr(owner, name)
        for owner in (bl, *parts())
        for name in sorted(owner.__all__)
        if not inspect.ismodule(getattr(owner, name))
    }
    homes: dict[int, tuple[ModuleType, str]] = {}
    for place, value in sorted(values.items(), key=lambda item: is_alias(*item)):
        if is_own(value):
            homes.setdefault(id(value), place)
    return {
        f"{owner.__name__}.{name}": documented(*homes.get(id(value), (owner, name)))
        for (owner, name), value in values.items()
    }


def is_own(value: object) -> bool:
    """Return whether it is a function or class of balloonlab."""
    return callable(value) and value.__module__.startswith("balloonlab")


def is_alias(place: tuple[ModuleType, str], value: object) -> bool:
    """Return whether a function or class was given another name there."""
    return is_own(value) and getattr(value, "__name__", "") != place[1]


def documented(owner: ModuleType, name: str) -> Name:
    """Describe a name where it is documented."""
    value, full = getattr(owner, name), f"{owner.__name__}.{name}"
    doc = inspect.getdoc(value) if is_own(value) else constant_doc(owner, name)
    return Name(full, value, doc or "")


def constant_doc(owner: ModuleType, name: str) -> str:
    """Return the string below a constant's assignment, in whichever module that stands."""
    value = getattr(owner, name)
    for module in (owner, *loaded(owner)):
        is_there = re.search(rf"^{name}\b", inspect.getsource(module), re.MULTILINE)
        if is_there and getattr(module, name, None) is value:
            docs = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            if ("", name) in docs:
                return "\n".join(docs["", name])
    return ""


def loaded(owner: ModuleType) -> list[ModuleType]:
    """List the modules of balloonlab that are imported, those of the part first."""
    found = sorted(name for name in sys.modules if name.startswith("balloonlab."))
    found.sort(key=lambda name: not name.startswith(f"{owner.__name__}."))
    return [sys.modules[name] for name in found]
