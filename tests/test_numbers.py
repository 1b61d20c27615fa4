"""Numbers of prose: computed from the data, and the same wherever they are stated."""

import json
import re
from pathlib import Path

import nbformat
import pytest

import balloonlab as bl
from balloonlab.results import Number
from balloonlab.results.export import JSON, LATEX, to_json, to_latex
from balloonlab.results.sweep_numbers import median_ms

from .readme import PAGES, TOP, prose

pytestmark = pytest.mark.once

STATED = re.compile(r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?) (ms|us|ns|%|times|GiB/s)(?!\w)")


def texts():
    return {number.text.replace(",", "") for number in bl.results.all_numbers().values()}


def stated(text):
    return [f"{number.replace(',', '')} {unit}" for number, unit in STATED.findall(text)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (5147.1, "ms", "5,147 ms"),
        (47.25, "ms", "47.2 ms"),
        (9.669, "times", "9.67 times"),
        (7168, "", "7,168"),
        (1.0234, "", "1.02"),
        (99.72, "%", "99.7 %"),
        (100.0, "%", "100 %"),
        (68.3, "%", "68 %"),
        (0.31, "%", "0.31 %"),
        (7.6e-06, "%", "0 %"),
        (-0.00004, "ms", "0 ms"),
        (8e-05, "ms", "0.0001 ms"),
        (1021.4, "ms", "1,021 ms"),
        (0, "", "0"),
    ],
)
def test_how_a_number_is_written(value, unit, text):
    assert Number(value, unit, "lab", "", "").text == text


def test_render_fills_in_and_names_what_is_missing():
    known = {"one": Number(1.5, "ms", "lab", "x", "y")}
    assert bl.results.render("It took {one}.", known) == "It took 1.5 ms."
    assert bl.results.render("**{one}**", known)._repr_markdown_() == "**1.5 ms**"
    with pytest.raises(KeyError, match="other"):
        bl.results.render("{other}", known)


def test_an_unknown_name_is_found_before_any_number_is_computed():
    bl.results.all_numbers.cache_clear()
    with pytest.raises(KeyError, match="similar: headline_touched_ratio"):
        bl.results.render("{headline_touched_ratoi}")
    assert bl.results.all_numbers.cache_info().currsize == 0


def test_every_number_says_where_it_comes_from():
    for name, number in bl.results.all_numbers().items():
        assert re.fullmatch(r"[a-z][a-z0-9_.-]*", name)
        assert number.source in ("paper", "lab", "kvm", "linux", "qemu", "trace", "model")
        assert bl.datasets.path(number.data).exists()  # data/ itself where none is needed
        assert number.means
        assert number.value == number.value, name


def test_numbers_are_those_of_the_table():
    numbers, frame = bl.results.all_numbers(), bl.load(bl.datasets.path("headline")).frame
    total = frame.query("protocol == 'pfn' and touched").groupby("repeat")["time_ns"].sum()
    assert numbers["headline_touched_pfn_ms"].value == pytest.approx(total.median() / 1e6)
    assert numbers["paper_pfn_ms"].value == pytest.approx(4126)
    with pytest.raises(ValueError, match=r"one case with .*, got 2"):
        median_ms(frame, protocol="pfn")


def test_intervals_hold_their_ratio_and_what_overlaps_is_counted():
    numbers = {name: number.value for name, number in bl.results.all_numbers().items()}
    ends = {
        name[:-4] for name in numbers if name.endswith("_low") and f"{name[:-4]}_high" in numbers
    }
    rounding = 1.05  # to two digits
    for name in (name for name in ends if name.startswith(("runs_", "density_", "guests_"))):
        if name != "guests_alike":
            low, ratio, high = (numbers[name + end] for end in ("_low", "_ratio", "_high"))
            assert low / rounding <= ratio <= high * rounding, name
    states = {name for name in ends if re.fullmatch("guests_[a-z]+[0-9]*", name)} - {"guests_alike"}
    assert len(states) == numbers["guests_states"]
    largest = max(states, key=lambda name: numbers[f"{name}_ratio"])
    alike = [name for name in states if numbers[f"{name}_high"] >= numbers[f"{largest}_low"]]
    assert len(alike) == numbers["guests_alike"]
    assert min(numbers[f"{name}_low"] for name in alike) == numbers["guests_alike_low"]
    assert max(numbers[f"{name}_high"] for name in alike) == numbers["guests_alike_high"]
    for state in ("touched", "untouched", "touched_thp", "untouched_thp"):
        low, high = (numbers[f"sizes_{state}_ratio_{end}"] for end in ("low", "high"))
        short = state.replace("_thp", "_thp_").rstrip("_")
        for size in (1, 2, 4, 8, 16):
            assert low / rounding <= numbers[f"sizes_{short}_{size}gib_ratio"] <= high * rounding


def test_the_committed_files_hold_them():
    numbers = bl.results.all_numbers()
    advice = "python -m tests.readme writes them anew"
    assert (TOP / "data" / JSON).read_text() == to_json(numbers), advice
    assert (TOP / "data" / LATEX).read_text() == to_latex(numbers), advice
    assert json.loads(to_json(numbers)).keys() == numbers.keys()


def test_latex_macros_are_whole():
    text = to_latex({"a_b": Number(12.5, "%", "lab", "x", "y")})
    assert r"\@namedef{balloonlab@full@a_b}{12~\%} % lab: y" in text
    assert r"\@namedef{balloonlab@bare@a_b}{12}" in text
    assert text.count("{") == text.count("}")


def test_numbers_of_a_run_stand_beside_the_shipped_ones_in_latex(tmp_path):
    known = {"a_b": Number(12.5, "%", "lab", "x", "y")}
    bl.results.write(tmp_path, known, macro="mine")
    defined = re.compile(r"\\(?:newcommand\{\\|@namedef\{)([^}]*)\}")
    own, shipped = defined.findall((tmp_path / LATEX).read_text()), defined.findall(to_latex(known))
    assert own[0] == "mine"
    assert len(own) == len(shipped) == 5
    assert set(own).isdisjoint(shipped)
    with pytest.raises(ValueError, match="macro must be of ASCII letters only"):
        bl.results.write(tmp_path, known, macro="run_1")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_prose_of_pages_states_only_them(page):
    found = stated(prose(page.read_text()))
    assert found or page != TOP / "README.md"
    assert [number for number in found if number not in texts()] == []


def notebooks():
    return sorted((TOP / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name[:2])
def test_prose_of_notebooks_states_only_them(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    words = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert [number for number in stated(words) if number not in texts()] == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name[:2])
def test_what_notebooks_say_is_what_the_data_say(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith("bl.results.render("):
            (output,) = cell.outputs
            assert output["data"]["text/markdown"] == str(eval(cell.source, {"bl": bl}))
