"""The cost model: it finds the costs that made the times, and owns up to its errors."""

import numpy as np
import pandas as pd
import pytest

import balloonlab as bl
from balloonlab.model import (
    compare,
    counts,
    evidence,
    fit,
    load_model,
    summary,
    validate,
    validated,
)
from balloonlab.model.evidence import gather, gather_shipped
from balloonlab.model.fitting import Sample, fit_part, identified
from balloonlab.model.terms import COSTS, PARTS, derived

pytestmark = pytest.mark.once

TRUE = {
    "allocate": 3, "pack": 2, "pack_byte": 0.5, "notify": 20_000, "decode_byte": 1, "translate": 10,
    "discard": 500, "free": 70,
}  # fmt: skip


def made(seed=0, noise=0.0, apart=0.0, runs=6, cases=10):
    """Evidence whose times are sums of known costs, up to noise of every case and run."""
    rng = np.random.default_rng(seed)
    rows = []
    for run, number in np.ndindex(runs, cases):
        about = {
            "run": f"run {run}", "machine": "M", "run_id": str(number), "source": "lab",
            "protocol": "bitmap-v4", "discard": "range", "operation": "inflate", "touched": True,
            "thp": False, "backing": "anonymous", "verb": "dontneed", "threads": 1, "collect": 1,
            "vectors": 0, "wait": "block", "pattern": f"every:{number + 2}",
            "memory_bytes": number % 3, "balloon_bytes": 0,
        }  # fmt: skip
        units = dict(zip(bl.model.COUNTS, rng.integers(1, 10_000, 6).tolist(), strict=True))
        units |= {"n_pages": 10_000, "n_extents": 5, "n_partial_pages": 0, "n_runs": 7}
        units["n_pages"] += int(rng.integers(1000))
        row = derived(pd.DataFrame([about | units])).iloc[0]
        peculiar = np.exp(apart * rng.standard_normal())
        for stage, part in PARTS:
            if stage == "release":
                continue
            ns = sum(
                TRUE.get(name, 0) * row[term.unit]
                for name, term in COSTS.items()
                if (term.stage, term.part) == (stage, part)
            )
            ns *= peculiar * np.exp(noise * rng.standard_normal())
            rows.append(about | units | {"stage": stage, "part": part, "time_ns": ns})
    return pd.DataFrame(rows)


def test_known_costs_are_found_again():
    found = fit(made(), n_draws=2).costs.set_index("name")
    for name, ns in TRUE.items():
        assert found.loc[name, "ns"] == pytest.approx(ns, rel=1e-3)
    assert set(found.index) == set(COSTS) - {"release"}
    assert (found["ns"] >= 0).all()


def test_costs_that_no_case_tells_apart_are_said_to_be_so():
    table = made()
    found = fit(table, n_draws=2).costs.set_index("name")["identified"]
    assert found["notify"]
    assert not found["extent"]  # no case has vectored calls
    twins = fit(table.assign(n_discards=table["n_pages"]), n_draws=2).costs.set_index("name")
    assert not twins.loc["free", "identified"]
    assert not twins.loc["discard", "identified"]


def test_what_is_peculiar_to_runs_is_taken_out_and_shows_in_the_spread():
    table = made(noise=0.02)
    slow = table["run"] == "run 1"
    table.loc[slow, "time_ns"] *= 1.5
    model = fit(table, n_draws=2)
    (part,) = (part for part in model.parts if part.stage == "discard")
    others = [log for name, log in part.effects.items() if name != "run 1"]
    assert part.effects["run 1"] - np.mean(others) == pytest.approx(np.log(1.5), abs=0.05)
    assert part.between > 0.1
    assert part.within < 0.05
    found = model.costs.set_index("name")["ns"]
    assert found["notify"] == pytest.approx(20_000 * 1.5 ** (1 / 6), rel=0.05)


def test_a_fit_takes_costs_as_they_are_without_runs_to_compare():
    sample = Sample(
        np.array([[1.0], [2.0]]), np.array([5.0, 10.0]), np.array([5.0, 10.0]), np.zeros(2, int)
    )
    found = fit_part(sample, 1)
    assert found.ns[0] == pytest.approx(5)
    assert identified(sample).tolist() == [True]


def test_intervals_cover_what_they_say():
    table = made(noise=0.1, apart=0.1)
    checked = validate(table, n_draws=5)
    assert len(checked) == 60
    assert not checked["run_known"].any()
    assert 0.75 < checked["covered"].mean() <= 1
    assert checked["error"].abs().median() < 0.15
    exact = validate(made(), n_draws=2)
    assert exact["error"].astype(float).abs().max() < 0.01


def test_of_a_run_that_is_known_the_interval_is_narrower():
    table = made(noise=0.02, apart=0.0)
    table.loc[table["run"] == "run 1", "time_ns"] *= 1.5
    out = table["run_id"] == "3"
    known = compare(fit(table[~out], n_draws=5), table[out])
    unknown = compare(fit(table[~out], n_draws=5), table[out].assign(run="another"))
    width = [(t["high_ns"] / t["low_ns"]).median() for t in (known, unknown)]
    assert width[0] < width[1]
    assert known["error"].abs().max() < 0.1


def test_what_is_left_out_is_left_out_together():
    table = made(noise=0.3)
    by_size = validate(table, by="memory_bytes", n_draws=2)
    assert len(by_size) == 60
    small = table["memory_bytes"] == 0
    rest = compare(fit(table[~small], n_draws=2), table[small])
    pd.testing.assert_frame_equal(
        by_size.query("memory_bytes == 0").reset_index(drop=True), rest.reset_index(drop=True)
    )
    with pytest.raises(ValueError, match="two values of protocol"):
        validate(table, by="protocol")
    found = summary(by_size, "memory_bytes")
    assert found["n_cases"].sum() == 60
    assert found.loc[0, "n_cases"] == small.sum() / len(table) * 60


def test_cases_beyond_the_fit_are_refused_in_a_validation():
    table = made()
    table.loc[table["run_id"] == "0", "thp"] = True
    table.loc[table["run_id"] == "1", "n_discards"] *= 1000
    checked = validate(table, by="run_id", n_draws=2).set_index("run_id")
    assert (checked.loc["0", "refused"].str.contains("knows no discard of .*thp=True")).all()
    assert (checked.loc["1", "refused"].str.contains("n_discards|n_calls")).all()


def test_a_model_is_stored_whole(tmp_path):
    model = fit(made(noise=0.1), n_draws=3)
    model.save(tmp_path / "costs.json")
    again = load_model(tmp_path / "costs.json")
    pd.testing.assert_frame_equal(again.costs, model.costs, rtol=1e-4)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no model"):
        load_model(tmp_path / "other.json")


def test_a_model_shows_itself_in_short():
    assert repr(fit(made(), n_draws=2)) == "CostModel(20 costs, fitted to a machine)"
    assert "<table" in load_model()._repr_html_()


def test_it_takes_what_measure_gives():
    cases = [{"pattern": name} for name in ("idle", "every:2", "every:7")]
    runs = {name: bl.compare(cases, memory="8MiB", balloon="1MiB", repeats=2) for name in "ab"}
    table = gather(runs)
    assert len(table) == 2 * 3 * 6
    case = table.query("pattern == 'every:7'").iloc[0]
    assert {name: case[name] for name in bl.model.COUNTS} == counts(
        "every:7", memory="8MiB", balloon="1MiB"
    )
    assert (validate(table, n_draws=2)["predicted_ns"].astype(float) > 0).all()
    with pytest.raises(ValueError, match="at least one run by its name, got none"):
        fit({})
    with pytest.raises(ValueError, match="got none"):
        fit(runs["a"].frame.assign(source="qemu"))


def test_a_case_is_at_its_median_over_starts():
    one = bl.compare([{"protocol": "pfn"}, {}], memory="8MiB", repeats=1, progress=False)
    tables = [
        one.frame.assign(start=n, repeat=n, time_ns=one.frame["time_ns"] * times)
        for n, times in enumerate((1, 7, 2))
    ]
    table, alone = (gather({"some": rows}) for rows in (pd.concat(tables), one.frame))
    pd.testing.assert_frame_equal(table, alone.assign(time_ns=2 * alone["time_ns"]))
    with pytest.raises(ValueError, match="two values of run"):
        validate(table, by="run", n_draws=2)


def test_the_shipped_evidence_is_what_the_shipped_runs_say():
    some = gather_shipped(["headline", "threads"])
    stored = evidence()
    stored = stored[stored["run"].isin(["headline", "threads"])]
    pd.testing.assert_frame_equal(some, stored.reset_index(drop=True), check_dtype=False)
    # All units that were measured, too, are as they were counted again.
    for name in ("headline", "threads"):
        frame = bl.load(bl.datasets.path(name)).frame.drop_duplicates("run_id").set_index("run_id")
        mine = some[some["run"] == name]
        table = mine.drop_duplicates("run_id").set_index("run_id")
        columns = list(bl.model.COUNTS)
        assert (frame.loc[table.index, columns] == table[columns]).all(axis=None)


def test_the_shipped_costs_are_those_of_the_shipped_evidence():
    stored, again = load_model(), fit(n_draws=2)
    columns = ["stage", "part", "group", "name", "ns", "identified", "n_cases", "between", "within"]
    pd.testing.assert_frame_equal(stored.costs[columns], again.costs[columns], rtol=1e-3)
    assert (stored.costs["ns"] >= 0).all()


def test_predictions_hold_for_runs_sizes_patterns_and_traces_left_out():
    found = summary(validated(), "left_out")
    error = found["median_error_percent"]
    assert (error < 10).all()
    assert (found["covered_percent"] >= 90).all()
    assert set(found.index) == {"memory_bytes", "pattern", "run", "traces"}
