"""The hostile guest: 100,000 cases in the normal suite, and a judge that can fail."""

import numpy as np
import pytest
from typer.testing import CliRunner

from balloonlab import wire
from balloonlab.cli.commands import app
from balloonlab.host import Policy
from balloonlab.host.device import make_state, no_balloon
from balloonlab.kernels import clock
from balloonlab.kernels import fuzz as kernels
from balloonlab.kernels import hostile as guests
from balloonlab.queue import Virtqueue
from balloonlab.selftest import hostile
from balloonlab.selftest.contents import POLICIES, combinations

from .conftest import INTERPRETED
from .kvm import needs_kvm

WAYS = len(combinations()) + len(POLICIES)
CASES = 800 if INTERPRETED else 100_000


@pytest.fixture(scope="module")
def found():
    return hostile.fuzz(CASES, seed=7, progress=False)


def test_nothing_outside_ram_is_ever_touched(found):
    worst = found[found["finding"].isin(hostile.MUST_BE_ZERO)]
    assert len(worst) == 4 * WAYS + 4
    assert not worst["count"].any()


@needs_kvm
def test_nothing_outside_ram_is_ever_touched_behind_a_virtual_machine():
    found = hostile.fuzz(8000, seed=3, progress=False, guest="kvm")
    worst = found[found["finding"].isin(hostile.MUST_BE_ZERO)]
    assert len(worst) == 4 * WAYS + 4
    assert not worst["count"].any()
    assert found.loc[found["finding"] == "madvise calls", "count"].sum() > 8000


def test_every_case_ends_and_is_accounted_for(found):
    messages = found[found["protocol"] != hostile.SESSIONS]
    for _, group in messages.groupby(["protocol", "discard"]):
        counts = group.set_index("finding")["count"]
        ends = counts[[name for name in counts.index if name.startswith(("queue", "kicks"))]]
        assert counts["messages carried out"] + ends.sum() == counts["cases"]
        assert counts["cases"] == -(-CASES // WAYS)
        assert (counts >= 0).all()
        assert counts["madvise calls"] > 0


@pytest.mark.slow_interpreted
def test_every_way_to_be_refused_is_met(found):
    refused = (
        found[found["finding"].str.contains("refused|passed over")]
        .groupby("finding")["count"]
        .sum()
    )
    # No format of one's own is played.
    rare = refused.index.str.contains("beyond the page numbers|own decoder")
    assert (refused[~rare] > 0).all()


def test_the_same_seed_plays_the_same_cases():
    first, second = (hostile.fuzz(400, seed=3, progress=False) for _ in range(2))
    other = hostile.fuzz(400, seed=4, progress=False)
    assert first.equals(second)
    assert not first.equals(other)


def play(memory, canaries, own):
    state = make_state(
        wire.get("bitmap-v4"), Policy("range"), "inflate", no_balloon(memory.ram.size)
    )
    tallies = kernels.Tallies.zero()
    area = memory.ram[own * 4096 :][: 4096 * hostile.QUEUE_PAGES]
    message = memory.ram[(own + hostile.QUEUE_PAGES) * 4096 :][: 8 * guests.MESSAGE_WORDS]
    with Virtqueue(area, busy_wait=True) as queue:
        guest = guests.Guest(
            queue.ends,
            message.view(np.uint64),
            (120 + hostile.QUEUE_PAGES) * 4096,
            hostile.SPAN,
            np.array([99], np.uint64),
        )
        log = clock.Log.empty(100)
        scratch = np.zeros_like(state.balloon)
        kernels.run_cases(guest, memory, state, scratch, canaries, 500, tallies, log)
    return tallies.counts[0]


def test_the_judge_notices_a_host_that_takes_rom_for_ram():
    memory, canaries, own = hostile._map_memory()
    judged = play(memory, canaries, own)
    assert judged["canaries_changed"] == judged["discards_outside"] == 0
    memory.slots[1, 3] = 1
    assert play(memory, canaries, own)["canaries_changed"] > 0


def test_the_judge_notices_an_extent_outside_ram():
    memory, _, _ = hostile._map_memory()
    first = int(memory.slots[0, 2]) * 4096
    good = [(first, 24 * 4096), (first + 4096, 4096)]
    bad = [(first - 4096, 4096), (first, 25 * 4096), (0, 4096), (1 << 40, 4096)]
    assert kernels._outside(memory, np.array(good, np.int64)) == 0
    assert kernels._outside(memory, np.array(bad, np.int64)) == 4


@pytest.mark.parametrize("inflating", [True, False])
def test_the_judge_notices_a_page_discarded_again(inflating):
    """Also within one message; a page that leaves counts when it was not in the balloon."""
    pages = [(4, 3), (5, 1), (64, 1)]
    extents = np.array([(first * 4096, n * 4096) for first, n in pages], np.int64)
    there = np.array([1 << 5, 0], np.uint64)
    before = there if inflating else ~there
    assert kernels._again(before.copy(), extents, inflating) == 2
    nothing = np.zeros(2, np.uint64) if inflating else ~np.zeros(2, np.uint64)
    assert kernels._again(nothing, extents, inflating) == 1


def test_the_command_prints_and_keeps_the_table(tmp_path):
    out = tmp_path / "reliability"
    result = CliRunner().invoke(app, ["fuzz", "--cases", "400", "--out", str(out)])
    assert result.exit_code == 0
    assert "canary words changed" in result.stdout
    assert (out / "fuzz.csv").exists()
    assert (out / "meta.json").exists()
    result = CliRunner().invoke(app, ["fuzz", "--cases", "2"])
    assert result.exit_code == 2
    assert f"cases must be at least {WAYS}" in result.stderr
