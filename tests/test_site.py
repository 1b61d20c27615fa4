"""The site is built from what is committed, has every public name, and leads nowhere wrong."""

import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from urllib.parse import unquote, urldefrag

import nbformat
import pytest

import balloonlab as bl
from balloonlab.measurement import columns

from .readme import TOP

pytestmark = [pytest.mark.once, pytest.mark.timeout(900)]  # on a busy machine, too

COMMAND = [sys.executable, "notebooks/site"]
INSIDE = ("guest", "host", "measurement", "pages", "pages.metrics", "queue")
NOTEBOOKS = sorted((TOP / "notebooks").glob("*.ipynb"))


def letters(text):
    """Leave out spaces and marks, which Markdown and HTML have elsewhere, and where links lead."""
    return "".join(re.findall(r"\w", re.sub(r"\]\([^)]*\)", "]", text)))


class Page(HTMLParser):
    """The anchors, links, pictures and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.pictures, self.words = set(), [], [], ""
        self.feed(text)
        self.letters = letters(self.words)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given["id"]} if given.get("id") else set()
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        self.pictures += [given["src"]] if tag == "img" else []

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory):
    """The site, built by the documented command, which fails at any warning."""
    pytest.importorskip("myst_nb", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([*COMMAND, folder], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}/index.html\n"
    assert not done.stderr
    return folder


@pytest.fixture(scope="module")
def site(site_folder):
    """The text of every page by its path."""
    found = {str(path.relative_to(site_folder)): path for path in site_folder.rglob("*.html")}
    return {name: path.read_text() for name, path in found.items() if not name.startswith("_")}


@pytest.fixture(scope="module")
def pages(site):
    return {name: Page(text) for name, text in site.items()}


def absent(page, texts):
    return [text for text in texts if letters(text) not in page.letters]


def public():
    """Every public name that is no module: of the package, its public parts, and those inside."""
    named = [getattr(bl, name) for name in bl.__all__]
    parts = [value for value in named if inspect.ismodule(value)]
    parts += [import_module(f"balloonlab.{name}") for name in INSIDE]
    for owner in (bl, *parts):
        for name in owner.__all__:
            if not inspect.ismodule(getattr(owner, name)):
                yield owner.__name__, name, getattr(owner, name)


def test_the_start_page_is_the_readme(pages):
    text = re.sub(r"^(<!--|!\[|```).*", "", (TOP / "README.md").read_text(), flags=re.MULTILINE)
    assert absent(pages["index.html"], text.splitlines()) == []
    assert any("since-2016" in picture for picture in pages["index.html"].pictures)


@pytest.mark.parametrize("name", ["CONTRIBUTING", "CHANGELOG", "data/README"])
def test_the_other_pages_of_the_project_are_there(pages, name):
    text = re.sub(r"^(<!--|!\[|```).*", "", (TOP / f"{name}.md").read_text(), flags=re.MULTILINE)
    assert absent(pages[f"{name}.html"], text.splitlines()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_shown_as_committed_with_their_pictures(pages, path):
    page = pages[f"notebooks/{path.stem}.html"]
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert sum("_images" in picture for picture in page.pictures) == len(drawn) > 0
    printed = [output["text"] for output in outputs if output.output_type == "stream"]
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    assert absent(page, [*sources, *printed]) == []


def test_the_notebooks_stand_in_their_order(pages):
    found = [link for link in pages["notebooks.html"].links if re.match(r"notebooks/\d", link)]
    assert list(dict.fromkeys(found)) == [f"notebooks/{path.stem}.html" for path in NOTEBOOKS]


def test_every_public_name_is_described(site):
    html = "".join(text for name, text in site.items() if name.startswith("api/"))
    described = set(re.findall(r'<dt[^>]* id="([\w.]+)">.*?</dt>\s*<dd><p>\S', html, re.DOTALL))
    own = {id(value) for owner, name, value in public() if f"{owner}.{name}" in described}
    names = {f"{owner}.{name}": (owner, name, value) for owner, name, value in public()}
    assert len(names) > 200
    others = [full for full in names if full not in described]
    for full in others:  # another name of a function or class, which its part's page lists
        owner, name, value = names[full]
        assert callable(value), full
        assert id(value) in own, full
        link = rf'<a [^>]*href="[^"]*#[\w.]+"[^>]*><code[^>]*><span[^>]*>{name}</span>'
        assert re.search(link, site[f"api/{owner}.html"]), full


def test_docstrings_are_rendered_in_whole(pages):
    n_described = 0
    for owner, name, value in public():
        page = pages[f"api/{owner}.{name}.html" if owner == "balloonlab" else f"api/{owner}.html"]
        if inspect.isfunction(value) and f"{owner}.{name}" in page.anchors:
            doc = inspect.getdoc(value)
            headings = re.findall(r"^(\w+)\n-{3,}$", doc, re.MULTILINE)
            entries = re.findall(r"^(\w+ : .*)", doc, re.MULTILINE)
            summary = doc.split("\n\n")[0]
            assert absent(page, [summary, *headings, *entries]) == [], f"{owner}.{name}"
            n_described += 1
    assert n_described > 100
    assert not [name for name, page in pages.items() if re.search(r"\n-{3,}\n", page.words)]


def test_the_column_dictionary_is_that_of_the_code(pages):
    rows = columns().astype(str)
    lines = rows[["name", "unit", "dtype", "meaning"]].agg(" ".join, axis="columns")
    assert absent(pages["columns.html"], lines) == []


def test_links_lead_somewhere(pages, site_folder):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", link) or not (target or anchor):
                continue
            path = (site_folder / name).parent / target.split("?")[0] if target else None
            if path and not path.exists():
                broken.append(f"{name}: {link}")
                continue
            there = str(path.resolve().relative_to(site_folder.resolve())) if path else name
            if anchor and there in pages and anchor not in pages[there].anchors:
                broken.append(f"{name}: {link}")
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert broken == []


def test_a_wrong_name_in_backticks_fails_the_build(tmp_path):
    pytest.importorskip("sphinx")
    (tmp_path / "index.rst").write_text("Page\n====\n\n`balloonlab.measure_nothing`\n")
    settings = ["-W", "-q", "-b", "dummy", "-c", "notebooks/site", "-D", "extensions=references"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *settings, tmp_path, tmp_path / "out"],
        cwd=TOP,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "measure_nothing" in done.stderr
