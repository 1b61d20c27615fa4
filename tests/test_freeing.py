"""What is really freed, and what it costs to take it back."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.freeing import every_call, giving_back
from balloonlab.freeing.every_call import COLUMNS, summary
from balloonlab.freeing.report import render
from balloonlab.host import BACKINGS, VERBS, GuestRam
from balloonlab.kernels import contents
from balloonlab.measurement.provenance import thp_state
from balloonlab.sizes import HUGE_BYTES, MIB, PAGE_BYTES
from balloonlab.terminal import to_text

from .kvm import MARKS

pytestmark = pytest.mark.once

needs_thp = pytest.mark.skipif(
    thp_state() in ("never", "absent"), reason="no transparent huge pages here"
)


@pytest.fixture(scope="module")
def table():
    return bl.frees("8MiB", repeats=2, progress=False)


def test_every_combination_is_measured_or_has_its_reason(table):
    assert list(table.columns) == COLUMNS
    assert not table.isna().any().any()
    found = set(table[["backing", "verb"]].itertuples(index=False, name=None))
    assert found == {(backing, verb) for backing in BACKINGS for verb in VERBS}
    measured = table[table["reason"] == ""]
    assert (measured.groupby(["backing", "thp", "verb", "piece_bytes"]).size() == 2).all()
    assert (measured["n_pages"] == 1024).all()
    assert (measured["time_ns"] > 0).all()
    assert (table.loc[table["reason"] != "", "n_calls"] == 0).all()


def test_what_is_found_is_what_rows_of_backings_say(table):
    """The table of effects, which every repeat of a measurement is held to, on this kernel."""
    rows = summary(table)
    for row in rows[rows["freed"].notna()].itertuples():
        backing = BACKINGS[row.backing]
        effect = backing.effect(row.verb)
        if row.thp and row.piece_bytes == PAGE_BYTES:  # the kernel may collapse it meanwhile
            assert row.freed < 1, "a huge page is held whole"
        elif row.piece_bytes >= backing.page_bytes:
            assert row.freed == effect.frees, row
            assert row.reads == effect.reads or effect.reads == "either", row
        else:
            assert row.freed == 0, row
    small = rows[(rows["piece_bytes"] == PAGE_BYTES) & (rows["verb"] == "map")]
    mapped = small.set_index("backing")["mappings_after"].drop("hugetlb", errors="ignore")
    assert (mapped > 1000).all()


def test_pages_outside_are_looked_at(monkeypatch):
    discard = every_call._discard

    def too_much(ram, *arguments):
        found = discard(ram, *arguments)
        ram.memory.ram[:8] = 0
        return found

    monkeypatch.setattr(every_call, "_discard", too_much)
    with pytest.raises(RuntimeError, match="changed 1 pages outside"):
        bl.frees("4MiB", repeats=1, progress=False)


def test_huge_pages_that_cannot_be_had_are_a_reason(monkeypatch):
    def refuse(memory_pages, thp, backing):
        if backing == "hugetlb":
            raise MemoryError("no pool here")
        return GuestRam(memory_pages, thp, backing)

    monkeypatch.setattr(every_call, "GuestRam", refuse)
    table = bl.frees("4MiB", repeats=1, progress=False)
    rows = table[table["backing"] == "hugetlb"]
    assert rows["reason"].tolist() == ["no pool here"] * len(VERBS)
    assert "hugetlb: no pool here." in " ".join(to_text(render(table)).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"memory": "3MiB"}, "memory must be whole pieces of 4 MiB, got 3 MiB"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1, got 0"),
        ({"out": ""}, "out must name a folder"),
    ],
)
def test_arguments_are_checked_before_the_work(arguments, words):
    with pytest.raises(ValueError, match=words):
        bl.frees(**arguments)


def test_the_command_prints_tables_and_leaves_them(tmp_path):
    command = ["frees", "--memory", "4MiB", "--repeats", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any("memfd" in line and "dontneed" in line and "nothing" in line for line in lines)
    stored = pd.read_csv(tmp_path / "frees.csv", na_filter=False)
    assert list(stored.columns) == COLUMNS
    assert json.loads((tmp_path / "meta.json").read_text())["command"] == "frees"
    assert (tmp_path / "frees-small.svg").exists()


def test_the_picture_has_a_bar_per_call_that_says_whether_it_frees(table):
    ax = bl.figures.frees(table)
    names = [text.get_text() for text in ax.get_yticklabels()]
    at = names.index("memfd: dontneed")
    assert ax.patches[at].get_hatch()
    assert not ax.patches[names.index("memfd: remove")].get_hatch()
    plt.close(ax.figure)
    with pytest.raises(ValueError, match="pieces of 5 bytes"):
        bl.figures.frees(table, 5)


@pytest.mark.parametrize("guest", ["thread", pytest.param("kvm", marks=MARKS)])
@pytest.mark.parametrize("deflate", [True, False])
def test_memory_comes_back_whatever_is_behind_it(guest, deflate):
    backings = [name for name in BACKINGS if name != "hugetlb"]
    frame = bl.give_back("16MiB", guest, repeats=1, backings=backings, deflate=deflate)
    assert frame["backing"].tolist() == backings
    assert (frame["deflated"] == deflate).all()
    assert (frame["n_units"] * frame["unit_bytes"] == 14 * MIB).all()
    ax = bl.figures.give_back(frame)
    assert len(ax.get_yticklabels()) == 3
    plt.close(ax.figure)


def test_hugetlb_comes_back_in_huge_pages():
    try:
        frame = bl.give_back("16MiB", "thread", repeats=1, backings="hugetlb")
    except MemoryError as error:
        pytest.skip(str(error))
    assert frame[["unit_bytes", "n_units"]].to_numpy().tolist() == [[HUGE_BYTES, 7]]


@needs_thp
@pytest.mark.parametrize("guest", ["thread", pytest.param("kvm", marks=MARKS)])
def test_random_pages_break_huge_ones_and_a_collapse_mends_them(guest, tmp_path):
    frame = bl.collapse("64MiB", guest, repeats=2, out=tmp_path)
    assert (frame["huge_bytes_before"] >= 64 * MIB).all()
    # The kernel's own thread may collapse some meanwhile, eight at a time.
    assert frame["n_pages"].between(4096, 8192).all()
    assert (frame["huge_bytes_after"] < frame["huge_bytes_before"]).all()
    assert (frame["n_collapsed"] > 0).all()
    assert (frame[["touch_ns", "collapse_ns"]] > 0).all().all()
    stored = pd.read_csv(tmp_path / "collapse.csv")
    pd.testing.assert_frame_equal(stored, frame)


@needs_thp
@pytest.mark.parametrize("n_mended", [1, 20])
def test_what_the_kernel_mends_meanwhile_is_not_touched(monkeypatch, n_mended):
    operate = giving_back.operate

    def operate_and_mend(case, shared, own):
        done = operate(case, shared, own)
        pages = np.arange(n_mended * HUGE_BYTES // PAGE_BYTES)
        contents.touch_at(shared.memory.ram, pages * PAGE_BYTES, np.zeros(2, np.int64))
        return done

    monkeypatch.setattr(giving_back, "operate", operate_and_mend)
    if n_mended == 20:  # of 32
        with pytest.raises(RuntimeError, match="of 8192 that were discarded"):
            bl.collapse("64MiB", "thread", repeats=1)
    else:
        frame = bl.collapse("64MiB", "thread", repeats=1)
        assert frame["n_pages"].between(4096, 8192 - 1).all()


@needs_thp
def test_a_kernel_that_does_not_collapse_is_named(monkeypatch):
    def refuse(address, n_bytes, advice, what):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("balloonlab.freeing.collapsing.advise", refuse)
    with pytest.raises(NotImplementedError, match="MADV_COLLAPSE"):
        bl.collapse("16MiB", "thread", repeats=1)


@needs_thp
def test_a_balloon_without_a_huge_page_has_none_to_give_back():
    with pytest.raises(ValueError, match=r"memory must be so large .* got 1048576 bytes"):
        bl.give_back("1MiB", "thread", thp=True, repeats=1, progress=False)


def test_a_linux_guest_has_no_huge_pages_to_collapse():
    with pytest.raises(ValueError, match="guests must be one of thread, kvm, got 'linux'"):
        bl.collapse("16MiB", "linux")


def test_times_of_the_second_touch_are_of_the_pieces_alone(rng):
    ram = np.zeros(64 * PAGE_BYTES, np.uint8)
    offsets = np.sort(rng.choice(64, 20, replace=False)) * PAGE_BYTES
    assert contents.touch_at(ram, offsets, np.zeros(2, np.int64)) >= 0
    assert np.flatnonzero(ram.view(np.uint64)[::512]).tolist() == (offsets // PAGE_BYTES).tolist()
