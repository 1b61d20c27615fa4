"""Numbers of prose: computed from the data, and the same wherever they are stated."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import balloonlab as bl
from balloonlab.results import Number
from balloonlab.results.export import JSON, LATEX, shipped, to_json, to_latex
from balloonlab.results.number import Starts

from .readme import OTHER_MACHINE, PAGES, TOP, prose

pytestmark = pytest.mark.once

SEVERAL = {
    path.parent.name
    for path in (TOP / "data").glob("*/meta.json")
    if json.loads(path.read_text()).get("starts", 1) > 1
}
"""Folders of several process starts."""

STATED = re.compile(r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?) (ms|us|ns|%|times|GiB/s)(?!\w)")


def texts():
    """All that may be stated: numbers with their units, and the ends of intervals."""
    said = set()
    for number in (*shipped().values(), *shipped(OTHER_MACHINE).values()):
        said.update(stated(number.text))
        said.update(stated(number.range) if number.interval else ())
    return said


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


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "text", "ends"),
    [
        (5147.1, 4991, 5210, "ms", "5,100 ms (5,000 to 5,200)", "5,000 to 5,200 ms"),
        (1.04, 0.996, 9.04, "times", "1.0 times (1.0 to 9.0)", "1.0 to 9.0 times"),
        (99.72, 99.1, 99.999, "%", "99.7 % (99.1 to 100)", "99.1 to 100 %"),
        (99.6, 0.042, 130, "ns", "100 ns (0.042 to 130)", "0.042 to 130 ns"),
        (99.6, 99.5, 101, "ns", "100 ns", "100 ns"),
        (-3.26, -7.6e-06, 0, "ms", "-3.3 ms (0 to 0)", "0 ms"),
    ],
)
def test_what_was_measured_has_two_digits_and_its_interval(value, low, high, unit, text, ends):
    number = Number(value, unit, "lab", "", "", low, high, "95 % of 10 starts")
    assert f"{number}" == number.text == text
    assert f"{number:range}" == number.range == ends
    with pytest.raises(ValueError, match=r"written as \{name\} or \{name:range\}, got 'low'"):
        f"{number:low}"


def test_an_exact_number_has_no_range():
    with pytest.raises(ValueError, match="an exact number has no range, got 'kicks'"):
        f"{Number(7168, '', 'lab', '', 'kicks'):range}"


def test_render_fills_in_and_names_what_is_missing():
    known = {"one": Number(1.5, "ms", "lab", "x", "y")}
    assert bl.results.render("It took {one}.", known) == "It took 1.5 ms."
    known |= {"two": Number(2, "ms", "lab", "x", "y", 1.5, 3, "95 % of 5 starts")}
    assert bl.results.render("{two}, {two:range}", known) == "2.0 ms (1.5 to 3.0), 1.5 to 3.0 ms"
    assert bl.results.render("**{one}**", known)._repr_markdown_() == "**1.5 ms**"
    with pytest.raises(KeyError, match="other"):
        bl.results.render("{other}", known)


def test_names_are_those_that_are_shipped_and_none_is_computed():
    bl.results.all_numbers.cache_clear()
    assert "times" in bl.results.render("{headline_touched_ratio}")
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
        assert (number.low is None) == (number.high is None) == (not number.interval), name


def test_what_was_measured_has_an_interval_that_holds_it():
    counted = re.compile(
        "fuzz_|contents_|kvm_waits|kvm_exits|sizes_most_gib|cases|guests_(states|alike$)|"
        "crossover_.*_(cells|apart|bitmaps|alike|pfn)$|.*_(freed|later|mappings|bytes|given_ms)$|"
        "words_|drift_.*_n$"
    )
    for name, number in bl.results.all_numbers().items():
        if number.source not in ("paper", "trace") and not counted.match(name):
            assert number.interval, name
            several = number.data in SEVERAL or number.source == "model"
            assert several or "starts" not in number.interval, name
            slack = 1e-9 * abs(number.value)  # of adding up in another order
            assert number.low - slack <= number.value <= number.high + slack, name


def test_numbers_are_those_of_the_table():
    numbers, frame = bl.results.all_numbers(), bl.load(bl.datasets.path("headline")).frame
    total = frame.query("protocol == 'pfn' and touched").groupby("repeat")["time_ns"].sum()
    assert numbers["headline_touched_pfn_ms"].value == pytest.approx(total.median() / 1e6)
    assert numbers["paper_pfn_ms"].value == pytest.approx(4126)


def test_intervals_are_over_starts():
    table = pd.DataFrame({"way": "a", "start": [0, 0, 1, 1], "repeat": range(4)})
    table = table.assign(ns=[1.0, 3.0, 8.0, 10.0])
    two, one = Starts(table), Starts(table[:2])
    assert two.medians(["way"]).loc["a", "ns"].tolist() == [2, 9]
    assert one.medians(["way"]).loc["a", "ns"].tolist() == [1, 3]  # of one, its repeats
    assert two.middle([2, 9], 10) == (55, 20, 90, "range of 2 starts")
    value, low, high, interval = two.middle(range(100, 110))
    assert 100 < low < value < high < 109
    assert interval == "95 % of 10 starts"
    assert one.middle(range(100, 110)) == (104.5, 100, 109, "range of 10 repeats")
    assert one.over([3, 4], [1, 2]) == (3.5 / 1.5, 1.5, 4, "range of 2 repeats")
    times = table.assign(run_id=["x", "y", "x", "y"], time_ns=1)
    with pytest.raises(
        ValueError, match="one case for each value of way, got several for a: choose"
    ):
        Starts(times).times(["way"])


def test_what_overlaps_is_counted():
    numbers = bl.results.all_numbers()
    ratios = {
        name: one
        for name, one in numbers.items()
        if re.fullmatch("guests_[a-z]+[0-9]*_ratio", name)
    }
    alike = ratios.pop("guests_alike_ratio")
    assert len(ratios) == numbers["guests_states"].value
    largest = max(ratios.values(), key=lambda one: one.value)
    apart = [one for one in ratios.values() if one.high < largest.low]
    assert len(ratios) - len(apart) == numbers["guests_alike"].value
    assert alike.low == min(one.low for one in ratios.values() if one not in apart)
    for state in ("touched_", "untouched_", "touched_thp_", "untouched_thp_"):
        whole = numbers[f"sizes_{state}ratio"]
        sizes = [one for name, one in numbers.items() if re.match(rf"sizes_{state}\d+gib", name)]
        assert whole.low == min(one.low for one in sizes)
        assert whole.high == max(one.high for one in sizes)


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
