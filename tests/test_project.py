"""The project's files agree with each other and with the data."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version

import pytest
import yaml

import balloonlab as bl

from .__main__ import oldest
from .readme import PAGES, TOP, fresh, parts

pytestmark = pytest.mark.once

README = (TOP / "README.md").read_text()


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def names_and_versions(requirements):
    return {re.sub(r"\s", "", entry) for entry in requirements}


def test_environment_yml_has_the_versions_of_pyproject_toml(project):
    environment = yaml.safe_load((TOP / "environment.yml").read_text())
    listed = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    expected = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    expected += [f"python{project['requires-python']}", "pip"]
    assert names_and_versions(listed) == names_and_versions(expected)


def test_the_version_is_the_same_everywhere(project):
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert str(citation["version"]) == project["version"] == version("balloonlab")
    assert bl.__version__ == project["version"]
    assert citation["license"] == project["license"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_the_pages_numbers_are_those_of_the_data(page):
    assert page.read_text() == fresh(page.read_text()), "python -m tests.readme writes it anew"


def test_every_generated_part_is_on_one_page():
    texts = "".join(page.read_text() for page in PAGES)
    assert {name: texts.count(f"<!-- {name} -->") for name in parts()} == dict.fromkeys(parts(), 1)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_links_between_pages_lead_somewhere():
    for page in (*PAGES, TOP / "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


RUNS = sorted(path.parent.name for path in (TOP / "data").glob("*/meta.json"))


@pytest.mark.parametrize("name", RUNS)
def test_committed_runs_come_from_a_commit(name):
    meta = json.loads((TOP / "data" / name / "meta.json").read_text())
    assert meta["commit"]
    assert not meta["commit"].endswith("-dirty")


def test_the_committed_figure_is_drawn_from_the_committed_data(tmp_path):
    result = bl.reproduction.Reproduction.load(TOP / "data" / "headline")
    labels = [text.get_text() for text in bl.figures.headline(result.frame).texts]
    totals = result.table().loc["total, ms"]
    assert len(labels) == len(totals)
    assert labels[0] == "4,126 ms"
    drawn, _ = bl.figures.save(bl.figures.headline(result.frame), tmp_path / "headline")
    committed = (TOP / "data" / "headline" / "headline.svg").read_text()
    assert re.findall(r"<!-- (.*?) -->", committed) == re.findall(
        r"<!-- (.*?) -->", drawn.read_text()
    )


def test_the_readmes_library_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.strip().splitlines()) <= 12
    subprocess.run([sys.executable, "-W", "error", "-c", example], check=True, capture_output=True)


def test_published_numbers_are_the_papers():
    table = bl.datasets.published()
    assert (table["source"] == "paper").all()
    totals = table.groupby("protocol")["time_ms"].sum()
    assert totals["pfn"] == pytest.approx(4126, abs=0.01)
    assert totals["bitmap-v4"] == 590
    assert table["reference"].notna().all()


def test_importing_does_not_draw_or_compile():
    program = (
        "import sys, balloonlab; print('matplotlib.pyplot' in sys.modules, 'typer' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == ["False", "False"]


def test_the_oldest_versions_are_those_of_pyproject_toml(project):
    pins = oldest()
    assert f"numba=={re.search(r'numba>=([0-9.]+)', str(project))[1]}" in pins
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {entry.replace(">=", "==") for entry in wanted if ">=" in entry} <= set(pins)
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", pin) for pin in pins)


def test_the_wheel_holds_data_and_types(tmp_path, project):
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=TOP, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob(f"balloonlab-{project['version']}-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"balloonlab/py.typed", "balloonlab/data/published.csv"} <= names
    assert not [name for name in names if "balloonlab-kernels-" in name]
