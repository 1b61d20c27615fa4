"""What is public: every part and name of balloonlab, where it is documented, and its docstring."""

import inspect
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer

import balloonlab as bl

INSIDE = ("pages", "queue", "guest", "host", "measurement")
"""Parts on the way of a page number that are no names of `balloonlab` itself."""


@dataclass(frozen=True)
class Name:
    """A public name: `full` is the dotted name, `page` the document that it stands on."""

    full: str
    value: Any
    doc: str
    page: str

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


def parts() -> list[ModuleType]:
    """List the public parts in the order of their names, then those inside."""
    values = [getattr(bl, name) for name in sorted(bl.__all__)]
    public = [value for value in values if inspect.ismodule(value)]
    inside = [import_module(f"balloonlab.{name}") for name in INSIDE]
    found = [*public, *inside, import_module("balloonlab.pages.metrics")]
    return list({part.__name__: part for part in found}.values())


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
    return Name(full, value, doc or "", f"api/{full if owner is bl else owner.__name__}")


def constant_doc(owner: ModuleType, name: str) -> str:
    """Return the string below a constant's assignment, in whichever module of the part that is."""
    prefix = owner.__name__.split(".")[:2]
    modules = [owner.__name__, *(m for m in loaded() if m.split(".")[:2] == prefix), *loaded()]
    for module in dict.fromkeys(modules):
        try:
            docs = ModuleAnalyzer.for_module(module).find_attr_docs()
        except PycodeError:
            continue
        if ("", name) in docs and getattr(import_module(module), name) is getattr(owner, name):
            return "\n".join(docs["", name])
    return ""


def loaded() -> list[str]:
    """List the modules of balloonlab that are imported."""
    return sorted(name for name in sys.modules if name.startswith("balloonlab."))
