"""From 2016 to today: both totals taken apart, the gains by allocation, whole inflations, drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import datasets
from balloonlab.figures.since_bars import BARS, LINES
from balloonlab.reproduction import gains, inflations, since_2016
from balloonlab.reproduction.samples import FOLDERS, STATES, STEPS, Sample, estimate, shipped
from balloonlab.results import since_numbers

pytestmark = pytest.mark.once

PAGES = 1_835_008
NS = {
    ("allocate", "all"): 3.0,
    ("send", "notify"): 200.0,
    ("send", "pack"): 4.0,
    ("send", "decode"): 2.0,
    ("translate", "all"): 7.0,
    ("discard", "all"): 100.0,
    ("remainder", "all"): 1.0,
}
"""Of the lab, untouched, pfn, per page; the others' are multiples."""

TIMES = {"lab": 1, "kvm": 2, "linux": 5, "qemu": 3}
TOUCHED, BULK = 4, 0.05
"""By how much touched memory takes longer to discard, and what replaces pfn all in all."""


def ns_of(source, protocol, touched, stage, part="all"):
    """The known time per page; that of the first repeat, the others are slower by 1 and 2 %."""
    ns = NS[stage, part] * TIMES[source] * (1 if protocol == "pfn" else BULK)
    return ns * TOUCHED if touched and stage == "discard" else ns


def known(source, factors=(1, 1.01, 1.02), n_starts=1, named=False):
    """A frame of a source's cases in which every time is known, starts by run or by number."""
    frame = shipped(source)
    frame = frame[frame["repeat"] == frame["repeat"].min()]
    frame = frame.drop_duplicates(["protocol", "touched", "stage", "part"])
    keys = zip(frame["protocol"], frame["touched"], frame["stage"], frame["part"], strict=True)
    ns = np.array([ns_of(source, *key) for key in keys]) * frame["n_pages"]
    tables = [
        frame.assign(repeat=repeat, time_ns=ns * factor * (1 + start / 100), start=start)
        for start in range(n_starts)
        for repeat, factor in enumerate(factors)
    ]
    table = pd.concat(tables, ignore_index=True)
    if named:
        return table
    return table.assign(run_id=table["run_id"] + table["start"].astype(str), start=0)


@pytest.fixture(scope="module")
def frames():
    return {source: known(source) for source in FOLDERS}


@pytest.fixture(scope="module")
def taken(frames):
    return since_2016(frames).set_index(["account", "protocol", "memory", "step"]).sort_index()


@pytest.fixture
def closed():
    yield
    plt.close("all")


def test_the_steps_of_every_account_sum_to_its_total(taken):
    for name, rows in taken.groupby(level=["account", "protocol", "memory"]):
        ns = rows["page_ns"].droplevel([0, 1, 2])
        assert ns.drop("total").sum() == pytest.approx(ns["total"]), name
    assert (taken["time_ms"] * 1e6 / PAGES).to_numpy() == pytest.approx(taken["page_ns"])
    assert (taken["low_ns"] <= taken["page_ns"]).all()
    assert (taken["page_ns"] <= taken["high_ns"]).all()


def test_each_step_of_today_is_of_the_source_that_is_named(taken):
    for protocol, memory in (("pfn", "untouched"), ("bitmap-v4", "touched")):
        rows = taken.loc["today", protocol, memory]
        touched = memory == "touched"
        for step, source, of, parts in (
            ("allocate", "linux", "pfn", [("allocate",)]),
            ("notify", "kvm", protocol, [("send", "notify")]),
            ("rest of send", "kvm", protocol, [("send", "pack"), ("send", "decode")]),
            ("translate", "qemu" if protocol == "pfn" else "kvm", protocol, [("translate",)]),
            ("discard", "kvm", protocol, [("discard",)]),
        ):
            expected = sum(ns_of(source, of, touched, *part) for part in parts)
            row = rows.loc[step]
            assert row["page_ns"] == pytest.approx(1.01 * expected)  # of the middle repeat
            assert row[["low_ns", "high_ns"]].tolist() == pytest.approx([expected, 1.02 * expected])
            assert (row["source"], row["data"]) == (source, FOLDERS[source])
            assert row["interval"] == "range of 3 repeats"
            assert row["note"]
        least = rows["low_ns"].drop("total").sum()  # each of its case's quickest repeat
        assert rows.loc["total", "low_ns"] == pytest.approx(least)
    assert taken.loc["today", "pfn", "touched"].loc["total", "source"] == "linux, kvm, qemu"
    assert taken.loc["today", "bitmap-v4", "touched"].loc["total", "source"] == "linux, kvm"


def test_what_was_published_is_left_as_it_is(taken):
    table = datasets.published()
    pfn = table[table["protocol"] == "pfn"].set_index("stage")["time_ms"]
    rows = taken.loc["published", "pfn", "idle"]["time_ms"]
    assert rows["send"] == pytest.approx(pfn["send"])
    assert rows["total"] == pytest.approx(pfn.sum())
    bitmap = taken.loc["published", "bitmap-v4", "idle"]
    total = table[table["protocol"] == "bitmap-v4"]["time_ms"].item()
    assert bitmap.loc["allocate", "time_ms"] == pytest.approx(pfn["allocate"])
    assert bitmap.loc["rest", "time_ms"] == pytest.approx(total - pfn["allocate"])
    assert "the patch left it alone" in bitmap.loc["allocate", "note"]
    assert set(bitmap["interval"]) == {"published"}


def test_what_is_left_over_has_a_name_and_a_sign(taken, frames):
    for protocol, memory in (("pfn", "untouched"), ("bitmap-v4", "untouched")):
        rows = taken.loc["taken apart", protocol, memory]
        others = rows["page_ns"].drop(["unexplained", "total"]).sum()
        left = rows.loc["unexplained"]
        assert left["page_ns"] == pytest.approx(rows.loc["total", "page_ns"] - others)
        assert left["page_ns"] > 0
        assert not left["note"].endswith("they take more")
        assert left["source"].startswith("paper, kvm")
    slow = frames["kvm"].assign(time_ns=frames["kvm"]["time_ns"] * 50)
    rows = since_2016(frames | {"kvm": slow}).query("account == 'taken apart'")
    left = rows[rows["step"] == "unexplained"]
    assert (left["page_ns"] < 0).all()
    assert left["note"].str.endswith("they take more").all()
    assert (left["high_ns"] < 0).all()


def test_what_is_left_over_is_known_by_the_published_stages(taken):
    for memory in STATES:
        left, now, then = (
            taken.loc[account, "pfn", at]["page_ns"]
            for account, at in (("left over", memory), ("today", memory), ("published", "idle"))
        )
        assert left["send"] == pytest.approx(then["send"] - now["notify"] - now["rest of send"])
        assert left["discard"] == pytest.approx(then["discard"] - now["discard"])
        assert left["unexplained"] == pytest.approx(then["unexplained"])
        for protocol in ("pfn", "bitmap-v4"):
            whole = taken.loc["taken apart", protocol, memory]["page_ns"]["unexplained"]
            assert taken.loc["left over", protocol, memory]["page_ns"]["total"] == pytest.approx(
                whole
            )


@pytest.mark.parametrize(
    ("n_starts", "interval"), [(2, "range of 2 starts"), (6, "95 % of 6 starts")]
)
def test_intervals_are_over_starts_where_there_are_several(n_starts, interval):
    several = {
        source: known(source, n_starts=n_starts, named=source == "kvm") for source in FOLDERS
    }
    rows = since_2016(several).query("account == 'today'")
    assert set(rows["interval"]) == {interval}
    notify = rows.query("step == 'notify' and protocol == 'pfn' and not memory == 'touched'").iloc[
        0
    ]
    starts = 1.01 * ns_of("kvm", "pfn", False, "send", "notify") * (1 + np.arange(n_starts) / 100)
    assert notify["page_ns"] == pytest.approx(np.median(starts))  # of each start's middle repeat
    assert starts[0] <= notify["low_ns"] * (1 + 1e-9)
    assert notify["high_ns"] <= starts[-1] * (1 + 1e-9)
    assert notify["low_ns"] < notify["page_ns"] < notify["high_ns"]
    mixed = since_2016(several | {"linux": known("linux")}).query("account == 'today'")
    assert set(mixed[mixed["step"] == "total"]["interval"]) == {
        f"range of {min(n_starts, 3)} repeats"
    }


def samples(values, kind):
    rows = [np.pad(np.array(one, float)[:, None], ((0, 0), (0, len(STEPS) - 1))) for one in values]
    return [Sample("lab", "x", f"p{n}", "touched", kind, ns) for n, ns in enumerate(rows)]


@given(
    st.lists(st.lists(st.integers(1, 1000), min_size=1, max_size=7), min_size=1, max_size=3),
    st.sampled_from(["starts", "repeats"]),
)
def test_an_estimate_lies_in_its_interval_and_that_in_the_range(values, kind):
    found = estimate(samples(values, kind), lambda *ns: sum(one[..., 0] for one in ns))
    assert found.value == sum(np.median(one) for one in values)
    least, most = sum(map(min, values)), sum(map(max, values))
    assert least <= found.low <= found.high <= most
    if kind == "repeats" or min(map(len, values)) < 5:
        assert (found.low, found.high) == (least, most)
        assert found.interval == f"range of {min(map(len, values))} {kind}"
    else:
        assert found.interval == f"95 % of {min(map(len, values))} starts"
        assert found.low <= found.value <= found.high


def test_a_published_value_has_no_interval_and_equal_starts_a_narrow_one():
    assert estimate([], lambda: 7.0) == (7, 7, 7, "published")
    assert estimate(samples([[3] * 8], "starts"), lambda ns: ns[..., 0])[:3] == (3, 3, 3)


def total(source, protocol, touched, leave_out=()):
    parts = [key for key in NS if key[0] not in leave_out]
    return sum(ns_of(source, protocol, touched, *part) for part in parts)


def test_gains_are_those_with_another_allocation_in_its_place(frames):
    rows = gains(frames).set_index(["source", "allocation", "memory"])
    assert rows.loc["paper", "own", "idle"]["gain"] == pytest.approx(4126 / 590)
    paper_ns = 268.2e6 / PAGES
    for source in ("lab", "kvm"):
        for memory, touched in STATES.items():
            linux_ns = 1.01 * ns_of("linux", "pfn", touched, "allocate")
            for allocation, ns in (("own", None), ("linux", linux_ns), ("paper", paper_ns)):
                left_out = () if ns is None else ("allocate",)
                old, new = (
                    1.01 * total(source, protocol, touched, left_out) + (ns or 0)
                    for protocol in ("pfn", "bitmap-v4")
                )
                row = rows.loc[source, allocation, memory]
                assert row["gain"] == pytest.approx(old / new)
                assert row["pfn_ms"] == pytest.approx(old * PAGES / 1e6)
                assert row["low"] <= row["gain"] <= row["high"]
    assert rows.loc["kvm", "linux", "touched"]["data"] == "kvm, linux"
    assert rows.loc["lab", "paper", "touched"]["data"] == "headline, published.csv"


def test_whole_inflations_are_published_rates_and_todays_totals(frames):
    rows = inflations(frames).set_index(["source", "system", "memory"]).sort_index()
    assert rows.loc[("paper", "sg", "idle"), "page_ns"] == pytest.approx(491e6 / PAGES)
    for row in datasets.published_rates().itertuples():
        both = rows.loc["paper", row.system]["gib_per_s"]
        assert both["touched"] == row.reclaim_gib_per_s
        assert both["untouched"] == row.reclaim_untouched_gib_per_s
    balloon = rows.loc["paper", "virtio-balloon", "touched"]
    assert balloon["page_ns"] == pytest.approx(1e9 / 0.951 / 2**18)
    for source, protocol in (("lab", "bitmap-v4"), ("linux", "hinting"), ("qemu", "reporting")):
        stages = {key: ns_of(source, protocol, True, *key) for key in NS}
        there = known(source).query("protocol == @protocol and touched and repeat == 0")
        expected = sum(stages[key] for key in zip(there["stage"], there["part"], strict=True))
        found = rows.loc[source, protocol, "touched"]["page_ns"]
        assert found == pytest.approx(1.01 * expected)
    without = inflations(frames | {"linux": frames["linux"].query("protocol == 'pfn'")})
    assert "hinting" not in set(without["system"])


def test_what_cannot_be_taken_apart_is_refused(frames):
    kvm = frames["kvm"]
    larger = kvm.assign(memory_bytes=2 * kvm["memory_bytes"])
    other = kvm.assign(wait="busy", run_id=kvm["run_id"] + "busy")
    for wrong, error, words in (
        ({"moon": kvm}, ValueError, "frames must be of lab, kvm, linux, qemu, got 'moon'"),
        ({"kvm": [1]}, TypeError, "must be a run or its tidy frame, got list"),
        ({"kvm": kvm[["source"]]}, ValueError, "got one without run_id"),
        ({"kvm": larger}, ValueError, "frames must hold pfn on untouched memory of kvm at the p"),
        ({"kvm": pd.concat([kvm, other])}, ValueError, "got several that differ in wait"),
        ({"kvm": frames["lab"]}, ValueError, "of kvm at the paper's sizes, and do not: run"),
    ):
        for function in (since_2016, gains, inflations, bl.figures.since_2016):
            if function is inflations and words.startswith("frames must hold pfn"):
                continue  # of which any may be missing
            if function is inflations and "do not" in words:
                continue
            before = plt.get_fignums()
            with pytest.raises(error, match=words):
                function(wrong)
            assert plt.get_fignums() == before


def test_the_shipped_runs_are_taken_by_default():
    rows = since_2016().set_index(["account", "protocol", "memory", "step"])["time_ms"]
    frame = bl.load(datasets.path("kvm")).frame.query("protocol == 'bitmap-v4' and touched")
    ms = frame[frame["stage"] == "discard"].groupby(["run_id", "repeat"])["time_ns"].sum() / 1e6
    expected = ms.groupby("run_id").median().median()
    assert rows["today", "bitmap-v4", "touched", "discard"] == pytest.approx(expected)


def bars(ax, y):
    """(left, width) in ms of the bars on a line."""
    boxes = [box for container in ax.containers for box in container]
    return [
        (box.get_x(), box.get_width())
        for box in boxes
        if round(box.get_y() + box.get_height() / 2) == y
    ]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_bars_are_the_steps_and_end_at_what_they_sum_to(closed, frames, taken):
    axes = bl.figures.since_2016(frames)
    for ax, protocol in zip(axes[:2], ("pfn", "bitmap-v4"), strict=True):
        assert [label.get_text() for label in axes[0].get_yticklabels()] == [b[2] for b in BARS]
        for y, (account, memory, _) in enumerate(BARS):
            ms = taken.loc[account, protocol, memory]["time_ms"]
            drawn = bars(ax, y)
            assert sum(width for _, width in drawn) == pytest.approx(ms["total"])
            assert sorted(width for _, width in drawn) == pytest.approx(
                sorted(ms.drop("total").to_list())
            )
    assert texts(axes[0])[0] == "4,126 ms"
    assert texts(axes[1])[0] == "590 ms"
    assert "paper; today: sum of linux, kvm, qemu" in axes[0].get_xlabel()
    assert axes[1].get_xlabel().endswith("today: sum of linux, kvm)")


def test_what_takes_more_than_2016_is_drawn_backwards_and_said(closed, frames):
    slow = frames["kvm"].assign(time_ns=frames["kvm"]["time_ns"] * 50)
    axes = bl.figures.since_2016(frames | {"kvm": slow})
    for ax, total_ms in zip(axes[:2], (4126, 590), strict=True):
        left, width = bars(ax, 1)[-1]
        assert width < 0
        assert left + width == pytest.approx(total_ms)
        assert texts(ax)[1].startswith("\N{MINUS SIGN}")
        assert texts(ax)[1].endswith("ms unexplained")
    assert sum("today more" in text for text in texts(axes[2])) == 2
    legend = axes[0].get_figure().legends[0]
    assert "more than all of 2016" in [text.get_text() for text in legend.get_texts()]


def marks(ax):
    """Times per page that are drawn with a marker."""
    return [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() in ("D", "o", "s")]


def test_every_step_has_its_marks_and_its_source(closed, frames, taken):
    axes = bl.figures.since_2016(frames)
    for ax, protocol in zip(axes[2:4], ("pfn", "bitmap-v4"), strict=True):
        for account, memory in (
            ("published", "idle"),
            ("today", "touched"),
            ("today", "untouched"),
        ):
            ns = taken.loc[account, protocol, memory]["page_ns"]
            for value in ns.drop("unexplained", errors="ignore"):
                assert any(value == pytest.approx(mark) for mark in marks(ax))
    names = [label.get_text() for label in axes[2].get_yticklabels()]
    assert len(names) == len(LINES)
    assert names[0] == "a allocate (linux)"
    assert names[3] == "c translate (qemu; right: kvm)"
    assert "range of 3 repeats" in axes[2].get_xlabel()
    assert axes[2].get_xlim() == axes[3].get_xlim()


def test_a_step_below_zero_keeps_its_sign(closed, frames):
    qemu = frames["qemu"].copy()
    qemu.loc[qemu["stage"] == "translate", "time_ns"] *= -3
    ax = bl.figures.since_2016(frames | {"qemu": qemu})[2]
    ns = -3 * 1.01 * ns_of("qemu", "pfn", False, "translate")
    assert any(mark == pytest.approx(-ns) for mark in marks(ax))
    assert f"\N{MINUS SIGN}{-ns:.0f}" in texts(ax)


def test_published_rates_stand_beside(closed, frames):
    ax = bl.figures.since_2016(frames)[4]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert "HyperAlloc, 2025 (paper)" in names
    assert "scatter-gather, 2017 (paper)" in names
    assert "hinting, today (linux)" in names
    rates = datasets.published_rates().set_index("system")["reclaim_gib_per_s"]
    expected = 1e9 / rates["HyperAlloc"] / 2**18
    assert any(mark == pytest.approx(expected) for mark in marks(ax))


def test_nothing_of_the_figure_is_cut_off_and_it_is_saved_alike(closed, tmp_path):
    for name in ("a", "b"):
        axes = bl.figures.since_2016()
        bl.figures.save(axes, tmp_path / name)
    for ending in ("svg", "png"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    figure = axes[0].get_figure()
    figure.draw_without_rendering()
    for ax in axes:
        drawn = ax.get_tightbbox()
        assert figure.bbox.x0 <= drawn.x0 < drawn.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= drawn.y0 < drawn.y1 <= figure.bbox.y1


def test_the_gallery_draws_it(tmp_path):
    assert dict(bl.figures.draw_all(tmp_path, only=["since-2016"])) == {"since-2016": None}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"since-2016.{ending}" for ending in ("svg", "pdf", "png")}
    assert plt.get_fignums() == []


def test_its_numbers_are_those_of_the_frames():
    numbers = dict(pair for part in since_numbers.PARTS for pair in part())
    assert numbers["paper_bitmap_rest_ms"].value == pytest.approx(590 - 268.2)
    assert numbers["paper_kick_us"].value == pytest.approx(2818.1e3 / 7168)
    frame = since_2016().set_index(["account", "protocol", "memory", "step"])
    today = frame.loc["today", "pfn", "touched", "total"]
    assert numbers["since_2016_pfn_touched_ms"].value == pytest.approx(today["time_ms"])
    assert numbers["since_2016_pfn_touched_ms"].low == pytest.approx(today["low_ms"])
    for protocol, total_ms in (("pfn", 4126), ("bitmap", 590)):
        for memory in STATES:
            name = f"since_2016_{protocol}_{memory}"
            explained, left = (numbers[f"{name}_{one}_ms"] for one in ("explained", "unexplained"))
            for one, other in (("value", "value"), ("low", "high"), ("high", "low")):
                both = getattr(explained, one) + getattr(left, other)
                assert both == pytest.approx(total_ms)
    kick = numbers["since_2016_kick_untouched_us"].value
    ns = frame.loc["today", "pfn", "untouched", "notify"]["page_ns"]
    assert kick == pytest.approx(ns * PAGES / 7168 / 1e3)
    backed = numbers["since_2016_backed_percent"].value / 100
    least, most = (numbers[f"since_2016_bitmap_{m}_explained_ms"].value for m in STATES)
    assert least + backed * (most - least) == pytest.approx(590, rel=1e-3)
    assert numbers["paper_gain"].value == pytest.approx(4126 / 590)
    gain = gains().set_index(["source", "allocation", "memory"])["gain"]
    row = gain["kvm", "paper", "untouched"]
    assert numbers["since_2016_kvm_paper_untouched_gain"].value == pytest.approx(row)
    rate = numbers["paper_hyperalloc_touched_gib_per_s"]
    assert (rate.value, rate.unit, rate.source) == (344.8, "GiB/s", "paper")
    for name, number in numbers.items():
        assert bl.datasets.path(number.data).exists(), name
        assert np.isfinite(number.value), name
