"""The shape of the package: imports run one way, and what is public is documented."""

import ast
import inspect
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import balloonlab as bl

pytestmark = pytest.mark.once

PACKAGE = Path(bl.__file__).parent

WAY = (
    "kernels",
    "vcpu",
    "pages",
    "wire",
    "queue",
    "host",
    "guest",
    "qemu",
    "measurement",
    "reproduction",
    "ladder",
    "freeing",
    "harness",
    "model",
    "figures",
    "results",
    "campaign",
    "cli",
)
"""The way of a page number: a part imports only from those before it, and single modules."""


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(body):
    """Import statements that run when the module does: not those within functions."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_type_checking(node):
            yield from imports(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from imports(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from imports(handler.body)


def imported(module):
    """Modules of the package that a module needs while it is imported."""
    path = MODULES[module]
    here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in imports(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = here[: len(here) - node.level + 1] if node.level else []
        base = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found.add(inner if inner in MODULES else base)
    return {name for name in found if name in MODULES and name != module}


GRAPH = {module: imported(module) for module in MODULES}


def part(module):
    names = module.split(".")
    return names[1] if len(names) > 1 else names[0]


def cycle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_graph_sees_imports_of_every_kind():
    assert "balloonlab.kernels.compile" in GRAPH["balloonlab.kernels.formats"]
    assert GRAPH["balloonlab.wire"]
    assert GRAPH["balloonlab"] == set(), "it is lazy"
    assert cycle({"a": {"b"}, "b": {"a"}})


def test_modules_have_no_cycle():
    assert cycle(GRAPH) == []


def test_parts_have_no_cycle():
    graph = {}
    for module, needs in GRAPH.items():
        others = {part(name) for name in needs} - {part(module)}
        graph.setdefault(part(module), set()).update(others)
    assert cycle(graph) == []


def test_imports_follow_the_way_of_a_page_number():
    wrong = [
        f"{module} imports {name}"
        for module, needs in GRAPH.items()
        for name in sorted(needs)
        if part(module) in WAY
        and part(name) in WAY
        and WAY.index(part(name)) > WAY.index(part(module))
    ]
    assert wrong == []


def public():
    """Every public name of the package and its parts."""
    for name in sorted(bl.__all__):
        yield f"bl.{name}", getattr(bl, name)
        if inspect.ismodule(value := getattr(bl, name)):
            for inner in getattr(value, "__all__", ()):
                yield f"bl.{name}.{inner}", getattr(value, inner)


def test_dir_lists_public_names_only():
    assert sorted(dir(bl)) == sorted([*bl.__all__, "__version__"])
    assert not [name for name in bl.__all__ if name.startswith("_")]


def test_every_public_name_has_a_docstring():
    documented = (inspect.isfunction, inspect.isclass, inspect.ismodule)
    bare = [
        name
        for name, value in public()
        if any(is_kind(value) for is_kind in documented) and not inspect.getdoc(value)
    ]
    assert bare == []
