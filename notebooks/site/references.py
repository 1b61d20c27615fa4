"""Names in backticks: links to what is documented, plain where there is only the code."""

import inspect
import re
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from docutils import nodes
from public import names, parts
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip_fields(
    app: Sphinx, what: str, name: str, value: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of a named tuple: the docstring of the class has them."""
    return True if type(value).__name__ == "_tuplegetter" else None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Resolve what Sphinx does not: an argument, another name of the same, a name of the code."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    about = described(node)
    if target in arguments(about):
        return shown
    value = found(target, about, node.get("py:module"))
    if value is MISSING:
        return None
    if not (full := documented().get(id(value))):
        return shown
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, shown)


@cache
def documented() -> dict[int, str]:
    """Return the dotted names of what is documented, by identity; of plain constants none."""
    values = [(name.value, name.full) for name in names().values()]
    values += [(part, part.__name__) for part in parts()]
    return {id(value): full for value, full in values if not isinstance(value, int | str)}


MISSING = object()


def described(node: nodes.Node | None) -> list[tuple[str, Any]]:
    """List what a node describes, innermost first: dotted names and values."""
    about = []
    while node is not None:
        if isinstance(node, addnodes.desc):
            signature = node[0]
            full = ".".join(filter(None, (signature.get("module"), signature.get("fullname"))))
            about.append((full, found(full, [], None)))
        node = node.parent
    return about


def arguments(about: list[tuple[str, Any]]) -> set[str]:
    """Return the names of the arguments and fields of what is described."""
    listed: set[str] = set()
    for _, value in about:
        with suppress(TypeError, ValueError):  # no function, or one without a signature
            listed |= set(inspect.signature(value).parameters)
        if inspect.isclass(value):
            listed |= set(re.findall(r"\bself\.([a-z]\w*)", inspect.getsource(value)))
            listed |= set(getattr(value, "__annotations__", ()))
    return listed


def found(target: str, about: list[tuple[str, Any]], module: str | None) -> Any:
    """Look a dotted name up where the docstring stands, then from the package on."""
    homes = [getattr(value, "__module__", None) for _, value in about]
    for home in filter(None, [*homes, module]):
        value = walk(import_module(home), target)
        if value is not MISSING:
            return value
    for _, value in about:
        value = walk(value, target)
        if value is not MISSING:
            return value
    return walk(import_module("balloonlab"), target.removeprefix("balloonlab."))


def walk(value: Any, target: str) -> Any:
    """Follow a dotted name from a value; parts of the package are imported on the way."""
    for name in target.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            try:
                value = import_module(f"{value.__name__}.{name}")
            except (ImportError, AttributeError):
                return MISSING
    return value
