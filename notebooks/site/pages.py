"""Write the sources of the site: the project's own pages, and those made from the package."""

import re
import shutil
from pathlib import Path
from textwrap import indent
from types import ModuleType

import nbformat
from public import Name, names, parts, public_parts

import balloonlab as bl
from balloonlab import kernels
from balloonlab.measurement import columns

CONTENTS = """
```{toctree}
:hidden:

notebooks
api/index
columns
data/README
CONTRIBUTING
CHANGELOG
```
"""


def write_pages(top: Path, sources: Path) -> None:
    """Fill a folder with the sources of the site, each page at the place that links expect."""
    for folder in ("api", "data", "notebooks"):
        (sources / folder).mkdir()
    for entry in (top / "data").iterdir():
        if entry.suffix != ".md":
            (sources / "data" / entry.name).symlink_to(entry)
    for path in (top / "notebooks").glob("*.ipynb"):
        nbformat.write(without_blanks(path), sources / "notebooks" / path.name)
    shutil.copy(top / "CITATION.cff", sources)
    for page in ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"):
        (sources / page).write_text(led((top / page).read_text()))
    readme = led((top / "README.md").read_text())
    (sources / "index.md").write_text(readme + CONTENTS)
    (sources / "notebooks.md").write_text(notebooks(top, readme))
    (sources / "columns.md").write_text(column_dictionary())
    for name, text in api().items():
        (sources / "api" / f"{name}.rst").write_text(text)


def without_blanks(path: Path) -> nbformat.NotebookNode:
    """Read a notebook, without the empty outputs that a progress bar leaves."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("data") != {"text/plain": ""}]
    return notebook


def led(text: str) -> str:
    """Lead links to folders to the page of what is in them."""
    text = re.sub(r"\]\(balloonlab/(\w+)(/__init__\.py)?\)", r"](api/balloonlab.\1.rst)", text)
    text = re.sub(r"\[([^]]*)\]\(notebooks/site\)", r"\1", text)  # what makes this has no page
    return text.replace("](data)", "](data/README.md)")


def notebooks(top: Path, readme: str) -> str:
    """Return the page of the notebooks: README's table of their questions, and all in order."""
    (table,) = re.findall(r"^\| notebook \|.*?\n\n", readme, re.DOTALL | re.MULTILINE)
    files = sorted(path.stem for path in (top / "notebooks").glob("*.ipynb"))
    tree = "\n".join(f"notebooks/{name}" for name in files)
    return f"# Notebooks\n\n{table}\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"


def column_dictionary() -> str:
    """Return the page of every column there is, a table for each kind of rows."""
    texts = [
        "# Columns\n\nEvery column of the tidy frame (`run.frame`, `timings.csv`) and of the tables"
        " beside it, from {py:obj}`balloonlab.measurement.columns`. What the numbers mean: "
        "[data](data/README.md)."
    ]
    for table, rows in columns().groupby("table", sort=False):
        lines = [f"## {table}", "", "| column | unit | type | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{row.name}` | {row.unit} | {row.dtype} | {row.meaning} |"
            for row in rows.itertuples(index=False)
        ]
        texts.append("\n".join(lines))
    return "\n\n".join(texts) + "\n"


def api() -> dict[str, str]:
    """Return the pages of the API by their names."""
    own = [name for full, name in names().items() if full.count(".") == 1]
    public = public_parts()
    core = [*parts()[len(public) :], kernels]
    made = {name.full: f"{title(name.full)}{entry(name)}" for name in own}
    made |= {part.__name__: part_page(part) for part in (*parts(), kernels)}
    made["index"] = "\n".join(
        [
            title("API"),
            "As ``import balloonlab as bl``. ``help(bl.measure)`` says the same.\n",
            title("Functions", "-"),
            table([(f"~{name.full}", name.summary) for name in own]),
            title("Parts", "-"),
            table([(f"~{part.__name__}", summary(part)) for part in public]),
            title("Inside", "-"),
            "What these stand on, along the way of a page number:\n",
            table([(f"~{part.__name__}", summary(part)) for part in core]),
            tree("Functions", [name.full for name in own]),
            tree("Parts", [part.__name__ for part in public]),
            tree("Inside", [part.__name__ for part in core]),
        ]
    )
    return made


def tree(caption: str, pages: list[str]) -> str:
    """Return a group of pages in the sidebar, without the package's name."""
    lines = [f"   {name.split('.')[-1]} <{name}>" for name in pages]
    return "\n".join([".. toctree::", "   :hidden:", f"   :caption: {caption}", "", *lines, ""])


def part_page(part: ModuleType) -> str:
    """Return the page of a part: what it is, a table of its names, and each name in full."""
    pages = [f"{part.__name__}.{name}" for name in sorted(getattr(part, "__all__", ()))]
    listed = [(full, names()[full]) for full in pages if full in names()]
    below = [name for full, name in listed if name.full == full]
    rows = [(f"{full.split('.')[-1]} <{name.full}>", name.summary) for full, name in listed]
    text = f"{title(part.__name__)}.. automodule:: {part.__name__}\n\n"
    if (short := part.__name__.split(".")[-1]) in bl.__all__ and part.__name__.count(".") > 1:
        text += f"As ``import balloonlab as bl``: ``bl.{short}``.\n\n"
    return text + (table(rows) if rows else "") + "\n".join(map(entry, below))


def entry(name: Name) -> str:
    """Document a name in full."""
    if name.directive != "py:data":
        members = "   :members:\n" if name.directive != "autofunction" else ""
        return f".. {name.directive}:: {name.full}\n{members}\n"
    value = repr(name.value)
    shown = f"   :value: {value}\n" if len(value) <= 80 and "\n" not in value else ""
    keys = ", ".join(f"``{key}``" for key in name.value) if isinstance(name.value, dict) else ""
    doc = indent(f"{name.doc}\n\n{keys}", "   ")
    part, _, own = name.full.rpartition(".")
    return f".. py:data:: {own}\n   :module: {part}\n{shown}\n{doc}\n\n"


def table(rows: list[tuple[str, str]]) -> str:
    """Return a table of names, each a link, and what they are."""
    lines = [".. list-table::", "   :class: names", ""]
    for full, text in rows:
        plain = re.sub(r"(?<!`)`(?!`)", "``", text)  # the row is one link already
        lines += [f"   * - :py:obj:`{full}`", f"     - {plain}"]
    return "\n".join(lines) + "\n\n"


def title(text: str, line: str = "=") -> str:
    """Return a heading."""
    return f"{text}\n{line * len(text)}\n\n"


def summary(part: ModuleType) -> str:
    """Return the first paragraph of a part's docstring."""
    return " ".join((part.__doc__ or "").strip().split("\n\n")[0].split())
