"""The report of a reproduction: what it shows, says, and leaves out."""

import pytest
from rich.console import Console

import balloonlab as bl
from balloonlab.reproduction import Reproduction, findings, readable
from balloonlab.reproduction.report import render
from balloonlab.terminal import to_text

pytestmark = pytest.mark.once


@pytest.fixture
def shipped():
    return {name: Reproduction.load(bl.datasets.path(name)) for name in ("headline", "qemu")}


@pytest.fixture
def linux(shipped):
    """The shapes of three repeats by Linux's driver, which hinted 1 % more than the balloon."""
    run = shipped["qemu"]
    hints = {"protocol": {"reporting": "hinting"}}
    frame, checks = (table[table["start"] < 3].assign(start=0) for table in (run.frame, run.checks))
    hinting = frame["protocol"] == "reporting"
    frame = frame.assign(source="linux").replace(hints)
    frame.loc[hinting, ["balloon_bytes", "n_pages"]] += [75 << 20, 75 << 8]
    frame = frame[~(hinting & (frame["stage"] == "allocate"))]
    checks = checks.replace(hints)
    return Reproduction(frame, run.meta | {"linux": "6.1"}, checks)


def test_a_reproduction_shows_itself_in_short(shipped):
    text = repr(shipped["headline"])
    assert text.startswith("Reproduction(lab, 7 GiB of 8 GiB, ")
    assert "pfn over bitmap-v4: untouched " in text
    assert len(text) < 120
    assert "<table" in shipped["headline"]._repr_html_()


def test_readable_takes_a_reproduction_or_columns_of_its_table(shipped):
    result = shipped["qemu"]
    assert readable(result).equals(readable(result.table()))
    some = result.table().drop(columns="paper, idle", level=0)
    cells = readable(some).to_numpy().ravel()
    assert not [cell for cell in cells if "e-" in cell or "e+" in cell or cell == "-0.0"]
    for wrong in (result.frame, [1], None):
        with pytest.raises(TypeError, match="table must be a reproduction or its table"):
            readable(wrong)


def test_memory_is_checked_by_the_rows_of_checks(shipped):
    result = shipped["headline"]
    touched = result.checks["touched"].astype(bool).sum()
    assert f"in {touched} repeats; mincore finds" in " ".join(findings(result))


def test_a_run_in_qemu_says_why_the_lab_does_not_stand_beside_it(shipped):
    run = shipped["qemu"]
    assert "lab: no columns" not in to_text(render(run))
    small = run.frame.assign(memory_bytes=1 << 30, balloon_bytes=7 << 27)
    other = Reproduction(small, run.meta, run.checks)
    assert not [group for group, _ in other.table().columns if group.startswith("lab")]
    assert "lab: no columns, because the run that comes with" in to_text(render(other))


@pytest.mark.parametrize(("name", "tables"), [("headline", 4), ("qemu", 6)])
def test_the_report_fits_80_columns_and_notes_wrap_at_100(shipped, name, tables):
    def printed(width):
        with (console := Console(width=width)).capture() as capture:
            console.print(render(shipped[name]))
        return [line.rstrip() for line in capture.get().splitlines()]

    narrow, wide = printed(80), printed(200)
    assert max(map(len, narrow)) <= 80 < max(len(line.strip()) for line in wide) <= 100
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(narrow)
    assert sum("total, ms" in line for line in narrow) == tables
    heads = [line.split() for line in narrow if set(line.split()) <= {"paper", "lab", "qemu"}]
    lab = [["paper"] * 2 + ["lab"] * n for n in (2, 3)]
    ranges = [["lab"] * n for n in (2, 3) if name == "headline"]
    assert [head for head in heads if "lab" in head] == lab + ranges
    assert [head for head in heads if "qemu" in head] == [["qemu"] * 2] * 4 * (name == "qemu")
    cells = readable(shipped[name]).to_numpy().ravel()
    assert set(cells) <= set(" ".join(narrow).split()) | {c for c in cells if " " in c}


@pytest.mark.parametrize("n_starts", [3, 10])
def test_totals_are_medians_of_which_stages_are_the_sum(shipped, n_starts):
    run = shipped["headline"]
    rows = run.frame[run.frame["start"] < n_starts]
    table = Reproduction(rows, run.meta, run.checks).table()
    for touched, state in ((False, "untouched"), (True, "touched")):
        shown = table[f"lab, {state}", "pfn"]
        mine = rows[(rows["protocol"] == "pfn") & (rows["touched"] == touched)]
        totals = mine.groupby("start")["time_ns"].sum() / 1e6
        assert shown["total, ms"] == pytest.approx(totals.median())
        stages = [name for name in shown.index if name[:2] in ("a ", "b ", "c ", "d ", "re")]
        assert shown[stages].sum() == pytest.approx(totals.median())


def test_a_run_by_linux_leaves_out_the_stages_that_a_case_has_not(linux):
    table, ranges = linux.table(), linux.ranges()
    assert [group for group, _ in table][-7:] == [
        *["lab, touched"] * 3, *["linux, untouched"] * 2, *["linux, touched"] * 2,
    ]  # fmt: skip
    assert readable(table).loc["a allocate, ms", ("linux, touched", "hinting")] == "-"
    assert ranges["allocate"].isna().any(axis=1).sum() == 2
    assert not ranges["total"].isna().any(axis=None)
    for touched, state in ((False, "untouched"), (True, "touched")):
        shown = table[f"linux, {state}", "hinting"]["speed-up"]
        assert linux.ratio("pfn", "hinting", touched).value == pytest.approx(shown)
        pair = table[f"linux, {state}"]
        assert shown > pair.loc["total, ms", "pfn"] / pair.loc["total, ms", "hinting"]
    assert repr(linux).startswith("Reproduction(linux, 7 GiB of 8 GiB, ")


def test_a_run_by_linux_says_what_its_numbers_are(linux):
    text = to_text(render(linux))
    assert max(map(len, text.splitlines())) <= 100
    assert "nan" not in text
    words = " ".join(text.split())
    for part in (
        "User-Mode Linux 6.1, ", "linux, touched: pfn takes", "as long as hinting",
        "A repeat is a boot.", "In brackets: range of 3 repeats", "Steps of 1 to 256 pages",
        "what came is 101.05 to 101.05 % of the balloon", "we know of nobody who had touched",
        "the guest's file in memory fell by", "lab: the run that comes with balloonlab (",
        "Least to greatest of the repeats, touched memory",
    ):  # fmt: skip
        assert part in words, part
    assert "QEMU" not in words


def test_a_run_without_hinting_has_no_sentence_on_it(linux):
    frame = linux.frame.query("protocol == 'pfn'")
    some = Reproduction(frame, linux.meta, linux.checks)
    assert "hints" not in to_text(render(some))
    assert some.ratio("pfn", "hinting", True) is None
