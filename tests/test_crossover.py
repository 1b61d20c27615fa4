"""The crossover map, and the answer of zero pages."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab import harness
from balloonlab.cli.commands import app
from balloonlab.harness.crossover import PROPOSED
from balloonlab.harness.zero_pages import summary
from balloonlab.kernels import zero_answer

WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4)


def frame_of(times):
    """Return a map of one cell: a list of times for each protocol."""
    rows = [
        {"protocol": name, "pattern": "geometric:4", "balloon_bytes": 1 << 20, "repeat": number,
         "memory_bytes": 1 << 21, "time_ns": time_ns, "source": "lab", "touched": True}
        for name, spent in times.items() for number, time_ns in enumerate(spent)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_best_is_apart_only_where_no_repeat_of_the_second_is_as_fast():
    apart = harness.best(frame_of({"pfn": [9, 8, 9], "bitmap-v4": [5, 6, 7]})).iloc[0]
    assert (apart["best"], apart["second"], apart["apart"]) == ("bitmap-v4", "pfn", True)
    assert apart["ratio"] == 9 / 6
    near = harness.best(frame_of({"pfn": [9, 7, 9], "bitmap-v4": [5, 6, 7]})).iloc[0]
    assert not near["apart"]
    assert near["alike"] == ("bitmap-v4", "pfn")


def test_of_several_starts_the_medians_are_compared():
    frame = frame_of({"pfn": [9, 1, 9, 9], "bitmap-v4": [5, 6, 7, 7]})
    assert not harness.best(frame).iloc[0]["apart"]
    starts = frame.assign(start=frame["repeat"].clip(upper=1))
    found = harness.best(starts).iloc[0]
    assert (found["best"], found["apart"]) == ("bitmap-v4", True)
    assert found["ratio"] == pytest.approx(9 / 6)


def test_a_protocol_is_compared_over_the_cells():
    cells = [frame_of({"pfn": [4 * n], "adaptive": [n * k]}) for n, k in ((1, 1), (5, 4))]
    frame = pd.concat([cells[0], cells[1].assign(pattern="geometric:8")])
    row = harness.compared(frame).iloc[0]
    assert (row["other"], row["n_cells"]) == ("pfn", 2)
    assert row["ratio"] == pytest.approx(0.5)
    assert (row["low"], row["high"]) == pytest.approx((0.25, 1))


def test_own_work_is_what_formats_differ_in():
    frame = frame_of({"pfn": [100, 100], "bitmap-v4": [90, 90], "adaptive": [300, 300]})
    sent = frame.assign(stage="send", time_ns=frame["protocol"].map(
        {"pfn": 30, "bitmap-v4": 8, "adaptive": 10}
    ))  # fmt: skip
    row = harness.excess(pd.concat([frame.assign(stage="discard"), sent])).iloc[0]
    assert row["other"] == "bitmap-v4"
    assert row["excess"] == pytest.approx(2 / 98)
    with pytest.raises(ValueError, match="stage"):
        harness.excess(frame.drop(columns="stage", errors="ignore"))


@pytest.mark.once
def test_the_bytes_of_a_cell_are_those_of_its_messages():
    frame = harness.counted("8MiB")
    assert set(frame["protocol"]) == set(PROPOSED)
    row = frame[(frame["pattern"] == "geometric:4") & (frame["protocol"] == "range-v6")].iloc[-1]
    pages = bl.patterns.make(row["pattern"], "8MiB", int(row["balloon_bytes"]))
    assert row["wire_bytes"] == sum(map(len, bl.wire.encode(pages, "range-v6")))
    cells = harness.best(frame, "wire_bytes")
    assert (cells["ratio"] >= 1).all()
    assert (cells["apart"] == (cells["ratio"] > 1.05)).all()


@pytest.mark.once
def test_recorded_guests_lie_on_the_map():
    guests = harness.recorded_guests()
    assert len(guests) == guests["name"].nunique() > 100
    assert guests["density"].between(0, 1).all()
    pages = bl.traces.load(guests["name"].iloc[0])
    n_runs = 1 + np.count_nonzero(np.diff(np.sort(pages)) != 1)
    assert guests["mean_run_pages"].iloc[0] == pytest.approx(pages.size / n_runs)


@pytest.mark.once
def test_maps_are_drawn():
    counted = harness.counted("8MiB")
    assert bl.figures.crossover(counted).get_title(loc="left").startswith("Fewest bytes")
    timed = frame_of({"pfn": [9, 8], "bitmap-v4": [5, 6]})
    assert "(lab, touched)" in bl.figures.crossover(timed, "time_ns").get_title(loc="left")
    both = pd.concat([timed, timed.assign(source="kvm")])
    with pytest.raises(ValueError, match="frame must have one source, touched or not"):
        bl.figures.crossover(both, "time_ns")
    for draw in (bl.figures.encodings, bl.figures.validation, bl.figures.predictions):
        with pytest.raises(ValueError, match=r"must be what balloonlab\..* returns"):
            draw(timed)
    with pytest.raises(ValueError, match="by must be one of time_ns"):
        harness.best(timed, "time")
    with pytest.raises(ValueError, match="of must be one of pfn, bitmap-v4, got 'range-v6'"):
        harness.best(timed, of=["range-v6"])
    with pytest.raises(ValueError, match="protocol must be one of"):
        harness.compared(timed)
    plt.close("all")


@pytest.mark.once
def test_every_format_is_a_line_of_dots():
    frame = bl.encodings("every:2", "8MiB", "2MiB", repeats=1, orders="list", progress=False)
    ax = bl.figures.encodings(frame)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        name for name in harness.names() if name not in ("reporting", "hinting")
    ]
    with pytest.raises(ValueError, match="order='sorted' with wire_bytes, and has none"):
        bl.figures.encodings(frame, order="sorted")
    plt.close("all")


@given(WORDS, WORDS)
def test_the_answer_is_what_is_asked_for_and_zero(asked, zero):
    n = min(len(asked), len(zero))
    asked, zero = (np.array(words[:n], np.uint64) for words in (asked, zero))
    answer, ram = np.zeros(n, np.uint64), np.ones(n * 64 * 512, np.uint64)
    assert zero_answer.answer_zero(asked, zero, answer) == np.count_nonzero(asked & zero)
    assert (answer == asked & zero).all()
    bits = np.unpackbits((asked & ~answer).view(np.uint8), bitorder="little").astype(bool)
    assert zero_answer.clear_others(asked, answer, ram) == bits.sum()
    assert (ram.reshape(-1, 512).any(axis=1) == ~bits).all()


@pytest.mark.once
def test_zero_pages_with_and_without_the_answer(tmp_path):
    frame = harness.zero_pages("8MiB", (0.0, 0.5, 1.0), repeats=2, out=tmp_path, progress=False)
    assert len(frame) == 3 * 2 * 2
    assert (frame["n_pages"] == 1024).all()
    assert (frame.loc[~frame["answer"], "n_words"] == 0).all()
    assert (frame.loc[frame["answer"] & (frame["zero_share"] == 1), "n_words"] > 0).all()
    assert (tmp_path / "zero-pages.csv").exists()
    table = summary(frame)
    assert (table["whole_ns"] > 0).all()
    for given_, message in (
        ({"shares": (2.0,)}, "shares must be numbers from 0 to 1"),
        ({"repeats": 0}, "repeats must be a whole number"),
        ({"memory": 0}, "memory must be an even number of 4 KiB pages"),
    ):
        with pytest.raises(ValueError, match=message):
            harness.zero_pages(**{"memory": "8MiB", **given_})


@pytest.mark.once
def test_the_commands_print_tables():
    runner = CliRunner()
    done = runner.invoke(
        app, ["encodings", "--pattern", "every:2", "--memory", "8MiB", "--balloon", "2MiB",
              "--protocol", "pfn", "--protocol", "adaptive", "--repeats", "1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "adaptive" in done.output
    done = runner.invoke(app, ["zero-pages", "--memory", "8MiB", "--repeats", "1"])
    assert done.exit_code == 0, done.output
    assert "ready_ns" in done.output
