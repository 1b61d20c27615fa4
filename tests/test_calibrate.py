"""Calibration: the few cases that tell every cost from the others, and the file they end in."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.model import calibration, load_model
from balloonlab.model.terms import COSTS

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A guest far too small for its costs to mean much: 8 MiB."""
    path = tmp_path_factory.mktemp("calibrated") / "costs.json"
    bl.calibrate(path, memory="8MiB", starts=1, repeats=1)
    return path


def test_predictions_are_for_the_machine_that_was_calibrated(model):
    # So small a guest may leave a cost open by more than a factor of ten, if others run beside it.
    asked = {"protocol": ["pfn", "bitmap-v4"], "touched": [True, False], "extrapolate": True}
    found = bl.predict("8GiB", model=model, **asked)
    (machine,) = {key.split("|")[0] for key in load_model(model).machines}
    assert set(found.frame["machine"]) == {machine}
    assert bl.measure("8MiB", repeats=1, progress=False).meta["kernel"] in machine
    assert (found.totals["low_ns"] > 0).all()


def test_the_cases_tell_the_costs_apart(model):
    """Of touched memory without huge pages, where every cost but release is a matter."""
    costs = load_model(model).costs
    told = costs[costs["identified"]]
    assert set(told["name"]) >= {
        "free",
        "discard",
        "notify",
        "translate",
        "allocate",
        "pack",
        "decode",
    }
    assert set(costs["name"]) == set(COSTS) - {"release", "exit"}  # of a thread
    assert (costs["ns"] >= 0).all()


def test_what_is_left_to_other_machines_is_taken_from_them(model):
    own, shipped = load_model(model), load_model()
    (reach,) = own.machines.values()
    assert reach["n_pages"][1] == max(one["n_pages"][1] for one in shipped.machines.values())
    assert all(part.within > 0 and part.between > 0 for part in own.parts)


def test_a_start_is_a_process_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(calibration, "fit", lambda runs, prior: asked.extend(runs) or load_model())
    monkeypatch.setattr(calibration, "cases", lambda: [{"protocol": "madvise"}])
    bl.calibrate(None, memory="8MiB", starts=2, repeats=1)
    assert asked == ["start 1", "start 2"]


def test_it_runs_in_a_script_that_guards_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import balloonlab as bl\nfrom balloonlab.model import calibration as c\n"
        "c.cases = lambda: [{'protocol': 'pfn', 'pattern': 'idle'}]\n"
        "c.fit = lambda runs, prior: print(runs['start 1'].frame['n_kicks'].iloc[0])\n"
        "bl.calibrate(None, memory='8MiB', starts=1, repeats=1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"guests": "thrad"}, ValueError, "guests must be one of thread, kvm"),
        ({"starts": 0}, ValueError, "starts must be a whole number"),
        ({"repeats": 0}, ValueError, "repeats must be a whole number"),
        ({"memory": "1KiB"}, ValueError, "memory must be a multiple"),
        ({"out": "/nowhere/costs.json"}, FileNotFoundError, "out must be a file in a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(given, error, message):
    with pytest.raises(error, match=message):
        bl.calibrate(**given)


def test_the_command_says_where_the_costs_are(monkeypatch, tmp_path):
    monkeypatch.setattr(calibration, "calibrate", lambda *_: load_model())
    result = CliRunner().invoke(app, ["calibrate", "--out", str(tmp_path / "costs.json")])
    assert result.exit_code == 0
    assert "costs.json" in result.output
    assert "notify" in result.output
