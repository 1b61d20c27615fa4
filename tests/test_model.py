"""The cost model: it finds the costs that made the times, and owns up to its errors."""

import numpy as np
import pandas as pd
import pytest

import balloonlab as bl
from balloonlab.model import cost, fit, validate

pytestmark = pytest.mark.once

COSTS = {
    "allocate": {"n_pages": 3},
    "pack": {"n_pages": 2, "wire_bytes": 0.5},
    "notify": {"n_kicks": 20_000},
    "decode": {"wire_bytes": 1},
    "translate": {"n_translations": 10},
    "discard": {"n_discards": 500, "n_pages": 70},
}


def made(seed=0, noise=0.0, cases=12):
    """Operations whose times are sums of known costs, up to noise on every repeat."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(cases):
        counts = dict(zip(cost.COUNTS, rng.integers(1, 10_000, len(cost.COUNTS)), strict=True))
        about = {"run_id": str(number), "source": "lab", "protocol": "bitmap-v4"}
        about |= {"discard": "range", "operation": "inflate", "touched": True, "thp": False}
        about |= {"pattern": "random", "memory_bytes": number % 3, "balloon_bytes": 0}
        for repeat in range(3):
            for stage, part in cost.TERMS:
                if stage == "release":
                    continue
                unit = COSTS[stage if part == "all" else part]
                ns = sum(per * counts[term] for term, per in unit.items())
                ns *= 1 + noise * rng.uniform(-1, 1)
                rows.append(
                    about | counts | {"repeat": repeat, "stage": stage, "part": part, "time_ns": ns}
                )
    return pd.DataFrame(rows)


def test_known_costs_are_found_again():
    found = fit(made()).costs
    for row in found.itertuples():
        name = row.stage if row.part == "all" else row.part
        assert row.ns == pytest.approx(COSTS[name][row.term], rel=1e-6)
    assert len(found) == sum(map(len, COSTS.values()))


def test_a_model_shows_itself_in_short():
    model = fit(made())
    assert repr(model) == "CostModel(8 costs, fitted to lab)"
    assert "<table" in model._repr_html_()
    assert "e-" not in model._repr_html_()


def test_a_case_is_predicted_from_the_others():
    exact = validate(made())
    assert len(exact) == 12
    assert exact["ratio"].to_numpy() == pytest.approx(1)
    noisy = validate(made(noise=0.3))["ratio"]
    assert 0 < (noisy - 1).abs().max() < 0.5
    assert (noisy != 1).all()


def test_predictions_are_labelled_and_need_measurements_like_them():
    frame = made()
    model = fit(frame)
    first = frame.iloc[0]
    predicted = model.predict(first, first)
    assert set(predicted["source"]) == {"model"}
    measured = frame[(frame["run_id"] == "0") & (frame["repeat"] == 0)]
    assert predicted["time_ns"].sum() == pytest.approx(measured["time_ns"].sum())
    with pytest.raises(ValueError, match=r"knows no discard of .*touched=False"):
        model.predict(first.to_dict() | {"touched": False}, first)
    with pytest.raises(ValueError, match=r"one source, got \['lab', 'qemu'\]"):
        fit(pd.concat([frame, frame.assign(source="qemu")]))


def test_it_takes_what_measure_gives():
    cases = [{"pattern": pages} for pages in (range(100), range(0, 800, 2), range(0, 800, 7))]
    run = bl.compare(cases, memory="8MiB", repeats=2)
    checked = validate(run.frame)
    assert len(checked) == 3
    assert (checked["predicted_ns"] > 0).all()


def test_cases_that_are_alike_are_left_out_together():
    frame = made(noise=0.3)
    by_size = validate(frame, by="memory_bytes")
    assert len(by_size) == 12
    rest = fit(frame.query("memory_bytes != 0")).compare(frame.query("memory_bytes == 0"))
    assert len(rest) == 4
    pd.testing.assert_frame_equal(by_size.query("memory_bytes == 0").reset_index(drop=True), rest)
    with pytest.raises(ValueError, match="two values of pattern"):
        validate(frame, by="pattern")


def test_a_forecast_is_a_tidy_frame_of_the_models():
    frame = made()
    counts = bl.model.counts(range(0, 800, 2), "bitmap-v4")
    tidy = bl.model.forecast(fit(frame), counts, "8MiB", "bitmap-v4")
    assert list(tidy.columns) == list(bl.measure("8MiB", repeats=1, progress=False).frame.columns)
    assert set(tidy["source"]) == {"model"}
    assert tidy["balloon_bytes"].iloc[0] == 400 * 4096
    assert tidy.set_index("stage").loc["discard", "time_ns"] == pytest.approx(
        500 * counts["n_discards"] + 70 * 400
    )


def test_idle_guests_of_any_size_are_predicted():
    frame = pd.concat([made(), made(seed=1).assign(protocol="pfn", discard="page")])
    frame["run_id"] += frame["protocol"]
    found = bl.model.idle_guests(fit(frame), ["1GiB", "1TiB", "32TiB"])
    totals = found.groupby(["protocol", "memory_bytes"])["time_ns"].sum()
    assert ("pfn", 32 << 40) not in totals.index
    assert len(totals) == found["run_id"].nunique() == 5
    assert totals["bitmap-v4", 32 << 40] == pytest.approx(32 * totals["bitmap-v4", 1 << 40])
    with pytest.raises(ValueError, match="ends at 16 TiB"):
        bl.model.idle_guests(fit(frame), ["32TiB"], protocol=["pfn"])
