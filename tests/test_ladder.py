"""The ladder: each rung measured, told apart in any frame, drawn and printed."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from rich.console import Console
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.figures.looks import NoCasesError
from balloonlab.ladder import RUNGS, SCENARIOS, measuring, rung_times
from balloonlab.ladder.report import render
from balloonlab.vcpu import KvmError

from .conftest import INTERPRETED

pytestmark = pytest.mark.once

SOME = ["idle, untouched", "random, touched"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    try:
        bl.host.check_vectored()
    except NotImplementedError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("ladder") / "bench"
    memory = "8MiB" if INTERPRETED else "16MiB"
    return bl.bench(memory, ["thread"], SOME, repeats=2, out=out, progress=False)


def test_every_rung_is_measured_once_in_each_scenario(run):
    rows = rung_times(run)
    idle, drawn = (rows[rows["scenario"] == name] for name in SOME)
    assert idle["rung"].tolist() == [rung.name for rung in RUNGS]
    assert drawn["rung"].tolist() == [rung.name for rung in RUNGS[:-1]]
    assert (rows["repeats"] == 2).all()
    assert (rows["least_ms"] <= rows["median_ms"]).all()
    assert (rows["median_ms"] <= rows["greatest_ms"]).all()
    n_pages = run.frame.groupby("run_id")["n_pages"].first().unique()
    assert np.isin((rows["median_ms"] * 1e6 / rows["page_ns"]).round(), n_pages).all()
    first = rows[rows["rung"] == RUNGS[0].name]
    assert (first["gain"] == 1).all()
    others = rows[rows["rung"] != RUNGS[0].name]
    assert others["interval"].str.startswith("range of ").all()
    assert ((others["gain_low"] <= others["gain"]) & (others["gain"] <= others["gain_high"])).all()


def test_gains_are_over_the_first_rung_of_the_same_guest():
    cases = [("a", "pfn", "page", 400), ("b", "pfn", "range", 100), ("c", "pfn", "sorted", 7)]
    frame = pd.DataFrame(
        [
            {
                "run_id": name, "protocol": protocol, "discard": discard, "time_ns": ns + repeat,
                "repeat": repeat, "source": "kvm", "pattern": "idle", "touched": True, "thp": False,
                "memory_bytes": 8 << 20, "balloon_bytes": 7 << 20, "n_pages": 1792,
                "operation": "inflate", "threads": 1, "collect": 1, "allocation": "page",
                "in_flight": 1,
            }
            for name, protocol, discard, ns in cases
            for repeat in range(3)
        ]
    )  # fmt: skip
    rows = rung_times(frame)
    assert rows["rung"].tolist() == [RUNGS[0].name, RUNGS[1].name]  # sorted alone is no rung
    assert rows["gain"].tolist() == [1, 401 / 101]
    assert (rows["gain_low"].iloc[1], rows["gain_high"].iloc[1]) == (400 / 102, 402 / 100)
    without = rung_times(frame[frame["run_id"] != "a"])
    assert without["gain"].isna().all()


@pytest.mark.parametrize("scenario", SOME)
def test_a_point_for_each_rung_and_its_time_beside_it(run, scenario):
    ax = bl.figures.ladder(run, scenario)
    rows = rung_times(run).query("scenario == @scenario")
    assert [label.get_text().split(": ")[-1] for label in ax.get_yticklabels()] == [
        name.split(": ")[-1] for name in rows["rung"]
    ]
    texts = [text.get_text() for text in ax.texts]
    assert len(texts) == len(rows)
    assert texts[0].endswith("  1.0x")
    assert ax.get_legend().get_texts()[0].get_text() == "lab"
    assert ax.get_xscale() == "log"
    plt.close(ax.figure)


def test_what_was_not_measured_is_not_drawn(run):
    with pytest.raises(NoCasesError, match="must have the rungs of 'idle, touched'"):
        bl.figures.ladder(run)
    with pytest.raises(ValueError, match="scenario must be one of idle, touched"):
        bl.figures.ladder(run, "idle")


def test_the_report_fits_80_columns(run):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render(run))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for words in ("idle, untouched (lab)", "HyperAlloc", "virtio-balloon-huge", "range"):
        assert words in text


def test_what_it_cannot_measure_is_refused_before_anything_is():
    for arguments, words in (
        ({"scenarios": ["idle"]}, "scenarios must be one of idle, touched"),
        ({"guests": ["linux"]}, "guests must be one of thread, kvm, got 'linux'"),
        ({"repeats": 0}, "repeats must be a whole number"),
        ({"memory": "1PiB"}, "memory"),
    ):
        with pytest.raises((ValueError, MemoryError), match=words):
            bl.bench(**arguments)


def test_guests_are_those_that_there_are(monkeypatch):
    monkeypatch.setattr(measuring, "describe", lambda: {"kvm": "kvm_amd"})
    assert measuring._there() == ["thread", "kvm"]

    def refuse():
        raise KvmError("/dev/kvm is not permitted")

    monkeypatch.setattr(measuring, "describe", refuse)
    assert measuring._there() == ["thread"]


def test_the_command_prints_the_ladder_and_leaves_its_figures(tmp_path):
    command = ["bench", "--memory", "16MiB", "--guest", "thread", "--repeats", "1"]
    command += ["--scenario", "idle, untouched", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "32 messages together" in result.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"timings.csv", "ladder-idle-untouched.svg", "ladder-idle-untouched.png"} <= names


def test_published_rates_are_those_of_the_artifact():
    rates = bl.datasets.published_rates()
    assert set(rates["source"]) == {"paper"}
    assert len(rates) == 6
    assert rates["reference"].str.contains("HyperAlloc").all()


def test_scenarios_are_cases():
    for setting in SCENARIOS.values():
        assert set(setting) == {"pattern", "balloon", "touched", "thp"}
