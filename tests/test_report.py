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


@pytest.mark.parametrize(("name", "tables"), [("headline", 2), ("qemu", 6)])
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
    assert [head for head in heads if "lab" in head] == lab
    assert [head for head in heads if "qemu" in head] == [["qemu"] * 2] * (tables - 2)
    cells = readable(shipped[name]).to_numpy().ravel()
    assert set(cells) <= set(" ".join(narrow).split()) | {c for c in cells if " " in c}
