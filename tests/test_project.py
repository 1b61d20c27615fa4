"""The project's files agree with each other and with the data."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import balloonlab as bl

from .readme import answers, blocks

pytestmark = pytest.mark.once

TOP = Path(__file__).parents[1]
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


@pytest.mark.parametrize("name", ["headline", "qemu", "reliability", "contents"])
def test_the_readmes_numbers_are_those_of_the_data(name):
    assert f"<!-- {name} -->\n```text\n{blocks()[name]}```" in README, (
        "README.md and data/ disagree: python -m tests.readme writes the tables anew"
    )


def test_the_readmes_answers_are_those_of_the_data():
    assert f"<!-- answers -->\n{answers()}\n<!-- end -->" in README, (
        "README.md and data/ disagree: python -m tests.readme writes the answers anew"
    )


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
