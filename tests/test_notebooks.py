"""Every notebook runs top to bottom, and is committed as it ran."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.once, pytest.mark.notebook]

FOLDER = Path(__file__).parents[1] / "notebooks"
MOST_CELLS = 15
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def assert_clean(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert "Warning" not in output.get("text", "")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_in_quick_mode(name, monkeypatch):
    monkeypatch.setenv("BALLOONLAB_MEMORY", "64MiB")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": os.fspath(FOLDER)}}
    NotebookClient(notebook, timeout=300, resources=where).execute()
    assert_clean(notebook)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_committed_executed_with_its_pictures(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    assert_clean(notebook)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert notebook.cells[0].source.startswith(f"# {int(name[:2])}. ")
    assert "**Question.**" in notebook.cells[0].source
    assert any(cell.source.startswith("## Answer") for cell in notebook.cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_opening_it_in_jupyterlab_leaves_it_unmodified(name):
    text = (FOLDER / name).read_text()
    notebook = nbformat.reads(text, as_version=4)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    assert notebook.metadata["kernelspec"] == kernel
    assert set(notebook.metadata) == {"kernelspec", "language_info"}  # no state of widgets
    assert text == nbformat.writes(notebook) + "\n"
    nbformat.validate(notebook)


def answer_of(name):
    """The text from the last heading on: what is rendered, its numbers by name."""
    cells = nbformat.read(FOLDER / name, as_version=4).cells
    start = next(n for n, cell in enumerate(cells) if cell.source.startswith("## Answer"))
    said = [cell.source for cell in cells[start:] if cell.cell_type == "markdown"]
    said += [cell.source for cell in cells[start:] if "results.render(" in cell.source]
    return "\n".join(said)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_ends_with_at_most_three_sentences(name):
    answer = answer_of(name).partition("What to do")[0]
    assert 1 <= len(re.findall(r"\.(?:\s|$)", answer)) <= 3


def test_only_the_last_one_ends_with_what_to_do_for_each_reader():
    advice = {name: answer_of(name).partition("What to do")[2] for name in NOTEBOOKS}
    assert [name for name in NOTEBOOKS if advice[name]] == NOTEBOOKS[-1:]
    paragraphs = advice[NOTEBOOKS[-1]].split("\n\n")[1:]
    readers = ["The author of a VMM", "The author of a driver", "An operator"]
    assert [re.match(r"\*\*(.*?)\*\*", text)[1] for text in paragraphs] == readers
    assert all("{" in text for text in paragraphs)  # numbers by name
    assert not re.search(r"\d (?:ms|ns|us|times|%)", advice[NOTEBOOKS[-1]])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_has_at_most_fifteen_cells(name):
    assert len(nbformat.read(FOLDER / name, as_version=4).cells) <= MOST_CELLS


@pytest.mark.parametrize("name", NOTEBOOKS[:-2])
def test_it_leads_to_the_one_before_and_the_next(name):
    links = re.findall(
        r"\]\(([^)]+\.ipynb)\)", nbformat.read(FOLDER / name, as_version=4).cells[0].source
    )
    place = NOTEBOOKS.index(name)
    assert links == [*NOTEBOOKS[max(0, place - 1) : place], NOTEBOOKS[place + 1]]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_defines_nothing_and_patches_no_path(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            assert not line.lstrip().startswith(("def ", "class ", "%pip", "!"))
            assert "sys.path" not in line
            assert "filterwarnings" not in line
