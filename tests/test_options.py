"""The option table, and what is made of it: signatures, checks, columns, ratios, commands."""

import inspect
import subprocess
import sys
import typing

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.host import BACKINGS, DISCARDS, ram
from balloonlab.kernels.bitmap_v4 import MAX_BITMAPS
from balloonlab.measurement import on_lab, setups, tables
from balloonlab.measurement.case import Case
from balloonlab.measurement.options import TABLE
from balloonlab.measurement.setups import make_case
from balloonlab.qemu.protocols import LARGEST_ORDER, PAGEBLOCK_ORDER

pytestmark = pytest.mark.once

SMALL = {"memory": "8MiB", "touched": False, "progress": False}


def test_the_table_agrees_with_what_it_chooses_from():
    assert set(TABLE["discard"].choices) == {*DISCARDS, on_lab.FLOOR_DISCARD}
    assert set(TABLE["backing"].choices) == {*BACKINGS}
    assert TABLE["order"].choices == bl.patterns.ORDERS
    assert TABLE["bitmaps"].default == TABLE["bitmaps"].most == MAX_BITMAPS
    assert (TABLE["block_order"].default, TABLE["block_order"].most) == (
        PAGEBLOCK_ORDER, LARGEST_ORDER,
    )  # fmt: skip
    words = {(guest, host) for guest in TABLE["guest"].choices for host in TABLE["host"].choices}
    alone = {("kvm", "qemu"), ("linux", "qemu")}  # at our device only
    assert words - alone == set(setups.SETUPS)
    assert set(TABLE) - {"memory", "balloon"} <= set(Case.__dataclass_fields__)
    for row in setups.SETUPS.values():
        assert row.default in row.protocols
    for guest in ("thread", "kvm"):
        assert setups.SETUPS[guest, "lab"].protocols.keys() == {*bl.wire.spoken(), "madvise"}


def test_signatures_and_docstrings_come_from_the_table():
    for function in (bl.measure, bl.sweep, bl.timeline):
        parameters = inspect.signature(function).parameters
        assert list(parameters)[: len(TABLE)] == list(TABLE)
        for name, row in TABLE.items():
            assert parameters[name].default == row.default
            assert f"\n{name} : " in function.__doc__
        assert "{options}" not in function.__doc__
    orders = inspect.signature(bl.sweep).parameters["order"].annotation
    assert list[typing.get_args(orders)[0]] == typing.get_args(orders)[1]
    assert ", or a list of them" in bl.sweep.__doc__
    assert ", or a list of them" not in bl.measure.__doc__


def test_it_works_without_docstrings():
    code = "import balloonlab as bl; print(bl.measure.__doc__, len(bl.measurement.columns()))"
    code += "; bl.measurement.setups.make_case(memory='8MiB')"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", f"import balloonlab.measurement.setups; {code}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("None ")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"operation": "inflat"},
            ValueError,
            "one of inflate, deflate, got 'inflat'; did you mean",
        ),
        ({"protocol": "bitmapv4"}, ValueError, "did you mean 'bitmap-v4'"),
        ({"guest": "kwm"}, ValueError, "one of thread, kvm, linux, got 'kwm'; did you mean 'kvm'"),
        (
            {"protocol": "hinting"},
            ValueError,
            "with guest='thread' and host='lab', got 'hinting': it is measured with guest='linux'",
        ),
        ({"guest": "kvm", "host": "qemu"}, ValueError, "guest='kvm' cannot be with host='qemu'"),
        ({"pattern": "idel"}, ValueError, "idle"),
        ({"repeat": 3}, TypeError, "unknown argument repeat: did you mean repeats"),
        ({"balloon": 1.0}, ValueError, "above 0 and below 1 as a share of memory, got 1.0"),
        ({"protocol": "madvise", "operation": "deflate"}, ValueError, "one call over as many"),
        ({"protocol": "madvise", "pattern": "huge"}, ValueError, "pattern must be 'idle'"),
        (
            {"protocol": "pfn", "discard": "single"},
            ValueError,
            "discard must be one of page, range",
        ),
        (
            {"pattern": np.ma.array([1, 2], mask=[True, False])},
            ValueError,
            "pattern must not have masked entries",
        ),
        ({"protocol": "pfn", "kick_pages": 63}, ValueError, "kick_pages must be a .* from 64 to"),
        ({"kick_pages": 512}, ValueError, "256 with protocol='bitmap-v4', got 512: its messages"),
        ({"protocol": "madvise", "kick_pages": 512}, ValueError, "one call over as many bytes"),
        (
            {"host": "qemu", "kick_pages": 512},
            ValueError,
            "256 with host='qemu', got 512: it is told apart by messages as Linux sends them",
        ),
        ({"guest": "linux", "memory": "1GiB", "kick_pages": 512}, ValueError, "no other number"),
        ({"pattern": [5000]}, ValueError, "pattern must be the guest's RAM"),
        (
            {"pattern": np.arange(4000)},
            ValueError,
            r"memory must be larger than the 16000KiB \(4000 pages\) of pattern custom:",
        ),
        (
            {"pattern": "trace:idle-2GiB-85-inflate", "memory": "1GiB"},
            ValueError,
            "memory must be larger than .* of pattern trace:idle-2GiB-85-inflate, got 1GiB",
        ),
    ],
)
def test_errors_name_argument_rule_value_and_remedy(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        bl.measure(**SMALL | arguments)
    assert "pfns" not in str(caught.value)


def test_a_share_of_memory_is_a_balloon():
    assert make_case(memory="8MiB", balloon=0.25).balloon_bytes == 2 << 20
    run = bl.measure("8MiB", balloon=np.float32(0.5), repeats=1, progress=False)
    assert (run.frame["balloon_bytes"] == 4 << 20).all()


def test_pages_per_kick_stand_in_the_frame():
    run = bl.sweep(
        memory="8MiB", protocol=["pfn", "bitmap-v4"], kick_pages=[64, 256, 4096], repeats=1,
        progress=False,
    )  # fmt: skip
    by_size = run.frame[run.frame["protocol"] == "pfn"].groupby("kick_pages")["n_kicks"].first()
    assert by_size.to_dict() == {64: 28, 256: 7, 4096: 1}
    assert set(run.frame.loc[run.frame["protocol"] == "bitmap-v4", "kick_pages"]) == {256}
    assert set(run.skipped["kick_pages"]) == {64, 4096}


def test_the_floor_is_a_case_like_any_other():
    run = bl.measure(memory="8MiB", protocol="madvise", repeats=2, progress=False)
    assert (run.frame["discard"] == "single").all()
    assert set(run.frame["stage"]) == {"discard", "remainder"}
    assert (run.frame["n_discards"] == 1).all()
    assert (run.checks["resident_pages_after"] == 256).all()


def test_the_column_dictionary_describes_what_is_measured():
    columns = bl.measurement.columns()
    run = bl.measure(**SMALL, repeats=1)
    tables = {"frame": run.frame, "checks": run.checks, "skipped": run.skipped}
    for table, frame in tables.items():
        own = [table, "freed checks"] if table == "checks" else [table]
        rows = columns[columns["table"].isin(own)]
        assert rows["name"].tolist() == list(frame.columns)
        for row in rows.itertuples():
            assert pd.api.types.is_bool_dtype(frame[row.name]) == (row.dtype == "bool")
    assert (columns["meaning"].str.len() > 10).all()
    units = columns.drop_duplicates("name").set_index("name")["unit"]
    assert units[["time_ns", "wire_bytes", "n_kicks", "real_q1_ns", "lost_pages"]].tolist() == [
        "ns", "bytes", "count", "ns", "count",
    ]  # fmt: skip
    assert units["huge_bytes_before"] == "bytes"


def test_a_run_knows_its_arguments_and_shows_itself_short():
    run = bl.measure(**SMALL, repeats=2, balloon="4MiB")
    assert run.meta["arguments"]["balloon"] == 4 << 20
    assert run.meta["arguments"]["wait"] == "block"
    assert len(repr(run).splitlines()) < 6
    assert "median_ms" in repr(run)
    assert "8 MiB" in repr(run)
    assert run._repr_html_().count("<tr") == 2
    both = bl.compare([{"protocol": "pfn"}, {"protocol": "bitmap-v4"}], **SMALL, repeats=1)
    assert [case["protocol"] for case in both.meta["arguments"]["cases"]] == ["pfn", "bitmap-v4"]
    pd.testing.assert_frame_equal(bl.totals(both), bl.totals(both.frame))
    with pytest.raises(TypeError, match="must be a run or its tidy frame"):
        bl.totals([1])


# Ratios


def frame_of(times, **columns):
    """A frame with the repeats' totals of each protocol, in ns."""
    rows = [
        {
            **dict.fromkeys(tables.COLUMNS, 0), "run_id": f"{name}{columns}", "protocol": name,
            "discard": "range", "repeat": n, "time_ns": time, **columns,
        }
        for name, values in times.items()
        for n, time in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ratios_of_few_repeats_have_the_range():
    frame = frame_of({"pfn": [10, 20, 30], "bitmap-v4": [2, 4, 5]})
    (row,) = bl.ratios(frame).itertuples()
    assert (row.protocol, row.ratio, row.n, row.interval) == ("bitmap-v4", 4 / 20, 3, "range")
    assert (row.low, row.high) == (2 / 30, 5 / 10)
    (row,) = bl.ratios(frame, over="bitmap-v4").itertuples()
    assert row.ratio == 5


def test_ratios_of_many_starts_have_a_bootstrap_interval(rng):
    times = {"pfn": rng.normal(1e6, 1e4, 40), "bitmap-v4": rng.normal(2e5, 1e4, 30)}
    frame = frame_of(times)
    (repeats,) = bl.ratios(frame).itertuples()  # of one start, which say nothing of others
    assert (repeats.interval, repeats.n) == ("range", 30)
    frame = frame.assign(start=frame["repeat"])
    (row,) = bl.ratios(frame).itertuples()
    assert row.interval == "95 %"
    assert row.n == 30
    assert 0.19 < row.low < row.ratio < row.high < 0.21
    assert row.low < 0.2 < row.high
    again = bl.ratios(frame)
    assert again["low"].item() == row.low
    assert repeats.low < row.low
    assert row.high < repeats.high


def test_ratios_are_of_cases_that_agree_in_all_else():
    times = {"pfn": [10], "bitmap-v4": [5]}
    frame = pd.concat([frame_of(times, touched=False), frame_of({"pfn": [40], "bitmap-v4": [8]})])
    frame["touched"] = frame["touched"].astype(bool)
    frame.loc[frame["time_ns"].isin([40, 8]), "touched"] = True
    table = bl.ratios(frame)
    assert table[["touched", "ratio"]].to_numpy().tolist() == [[False, 0.5], [True, 0.2]]
    with pytest.raises(ValueError, match="one case for each value of by="):
        bl.ratios(frame, by=[])
    with pytest.raises(ValueError, match="over must be a protocol of the frame"):
        bl.ratios(frame, over="bitmap")
    with pytest.raises(ValueError, match="by must be columns"):
        bl.ratios(frame, by="speed")


# Huge pages


@pytest.mark.parametrize(
    ("everywhere", "of_size", "allowed"),
    [
        ("never", "always", True), ("never", "madvise", True), ("never", "inherit", False),
        ("always", "never", False), ("madvise", "inherit", True), ("madvise", None, True),
        ("never", None, False), (None, None, False),
    ],
)  # fmt: skip
def test_both_switches_of_huge_pages_count(monkeypatch, tmp_path, everywhere, of_size, allowed):
    for name, state in (("THP_SWITCH", everywhere), ("THP_SIZE_SWITCH", of_size)):
        monkeypatch.setattr(ram, name, tmp_path / name)
        if state:
            (tmp_path / name).write_text(f"other [{state}] another\n")
    assert (ram.thp_state() in ("always", "madvise")) == allowed
    if not allowed:
        with pytest.raises(ValueError, match="thp=True needs transparent huge pages"):
            ram.check_thp(own_process=False)


def test_huge_pages_that_are_switched_off_or_not_given_are_noticed(monkeypatch):
    code = (
        "import ctypes; assert not ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)\n"
        "from balloonlab.host import ram\nram.thp_state = lambda: 'madvise'\nram.check_thp()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "PR_SET_THP_DISABLE" in done.stderr
    if ram.thp_state() in ("never", "absent"):
        pytest.skip("no transparent huge pages here")
    monkeypatch.setattr(ram.GuestRam, "huge_bytes", lambda self: 0)
    with pytest.raises(RuntimeError, match="thp=True must be measured on huge pages"):
        bl.measure(memory="16MiB", thp=True, repeats=1, progress=False)


# Commands


def invoke(*command):
    return CliRunner().invoke(app, [str(part) for part in command])


def test_the_command_has_every_option():
    text = invoke("sweep", "--help").output
    for name, row in TABLE.items():
        assert (row.flags or f"--{name}").split("/")[0].replace("_", "-") in text


def test_a_sweep_prints_sizes_ratios_and_what_is_common_once(tmp_path):
    result = invoke(
        "sweep", "--memory", "8MiB", "--memory", "16MiB", "--protocol", "pfn", "--protocol",
        "bitmap-v4", "--repeats", 2, "--balloon", "4MiB", "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "16 MiB" in result.stdout
    assert "16777216" not in result.stdout
    assert "ratio to pfn" in result.stdout
    assert result.stdout.count("pattern idle") == 1
    assert max(map(len, result.stdout.replace(str(tmp_path), "").splitlines())) <= 80


def test_a_sweep_that_measures_nothing_fails(tmp_path):
    result = invoke("sweep", "--memory", "8MiB", "--pattern", "every:2", "--out", tmp_path)
    assert result.exit_code == 1
    assert "0 cases measured, 1 left out" in result.stdout


def test_page_numbers_come_from_files(tmp_path):
    pages = np.random.default_rng(0).permutation(2048)[:64]
    (tmp_path / "pages.txt").write_text("\n".join(map(str, pages)))
    np.save(tmp_path / "pages.npy", pages)
    options = ["sweep", "--memory", "8MiB", "--repeats", 1, "--untouched", "--pattern-file"]
    for name in ("pages.txt", "pages.npy"):
        assert invoke(*options, tmp_path / name, "--out", tmp_path / f"of {name}").exit_code == 0
        run = bl.load(tmp_path / f"of {name}")
        assert set(run.frame["n_pages"]) == {64}
    both = {bl.load(tmp_path / f"of {n}").frame["pattern"][0] for n in ("pages.txt", "pages.npy")}
    assert len(both) == 1
    (tmp_path / "bad.txt").write_text("1\ntwo\n")
    (tmp_path / "bad.npy").write_text("no array")
    for name in ("bad.txt", "bad.npy", "none.txt"):
        result = invoke(*options, tmp_path / name, "--out", tmp_path / "x")
        assert result.exit_code == 2
        assert name in result.stderr
    assert not (tmp_path / "x").exists()


def test_traces_come_from_a_folder_of_ones_own(tmp_path):
    folder, name = bl.datasets.path("traces"), "idle-2GiB-25-inflate"
    result = invoke(
        "sweep", "--traces", folder, "--pattern", f"trace:{name}", "--untouched", "--repeats", 1,
        "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0
    run = bl.load(tmp_path)
    assert set(run.frame["pattern"]) == {f"trace:{folder}/{name}"}
    assert set(run.frame["n_pages"]) == {bl.traces.load(name).size}
    result = invoke("sweep", "--traces", tmp_path, "--pattern", "trace:none", "--out", tmp_path)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr


def test_a_balloon_is_a_share_of_memory_on_every_command(tmp_path):
    result = invoke("reproduce", "--memory", "8MiB", "--balloon", "0.5", "--out", tmp_path)
    assert result.exit_code == 0
    assert set(bl.load(tmp_path).frame["balloon_bytes"]) == {4 << 20}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sweep", "--order", "ascendig"], "did you mean 'ascending'"),
        (["sweep", "--out", ""], "out must name a folder"),
        (["reproduce", "--out", ""], "out must name a folder"),
        (["timeline", "--host", "qemu"], "No such option"),
        (["reproduce", "--host", "quemu"], "did you mean 'qemu'"),
    ],
)
def test_commands_refuse_in_one_line(command, words):
    result = invoke(*command)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_guest_far_too_large_is_told_a_size_that_fits_all_cases(tmp_path):
    result = invoke("reproduce", "--memory", "100TiB", "--out", tmp_path / "x")
    assert result.exit_code == 2
    fits = result.stderr.partition("available here")[2].partition("memory=")[2].partition("MiB")[0]
    assert 0 < int(fits) << 20 < bl.measurement.resources.available_bytes()
    assert not (tmp_path / "x").exists()
