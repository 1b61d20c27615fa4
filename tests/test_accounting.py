"""Counts of a message: what the device does with it, and a guest too large to list its pages."""

import pytest
from hypothesis import given

import balloonlab as bl
from balloonlab.address_map import HIGH_RAM_START, LOW_RAM_END
from balloonlab.model import COUNTS

from .strategies import few_words

RAGGED = range(100, 500)


@given(pages=few_words())
def test_discards_cover_each_page_once(pages):
    for protocol in ("pfn", "bitmap-v4"):
        calls = bl.model.discards(bl.wire.encode(pages, protocol), protocol)
        assert calls.dtype == bl.wire.RANGE
        covered = [page for start, n in calls.tolist() for page in range(start, start + n)]
        assert sorted(covered) == sorted(pages)
        assert protocol == "bitmap-v4" or covered == list(pages)


def test_adjacent_ranges_are_merged_into_one_call():
    calls = bl.model.discards(bl.wire.encode(RAGGED, "bitmap-v4"), "bitmap-v4")
    assert calls.tolist() == [(100, 28), (448, 52), (128, 320)]


@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
def test_discards_reach_over_the_hole_as_in_the_hosts_mapping(protocol):
    low, high = LOW_RAM_END - 1, HIGH_RAM_START
    across = bl.model.discards(bl.wire.encode([low, high, high + 9], protocol), protocol)
    joined = [(low, 2), (high + 9, 1)]
    assert across.tolist() == (
        joined if protocol == "bitmap-v4" else [(low, 1), (high, 1), (high + 9, 1)]
    )
    inside = bl.model.discards(bl.wire.encode([low, low + 1, high - 1, high], protocol), protocol)
    assert [start for start, _ in inside.tolist()] == [low, low + 1, high - 1, high]


def test_pages_beyond_any_host_are_refused():
    with pytest.raises(ValueError, match=r"below 2\*\*36"):
        bl.model.discards(bl.wire.encode([2**51], "bitmap-v4"), "bitmap-v4")


def test_no_message_makes_no_discards():
    for protocol in ("pfn", "bitmap-v4"):
        assert bl.model.discards([], protocol).tolist() == []


@pytest.mark.parametrize("protocol", ["pfn", "bitmap-v4"])
def test_messages_counts_what_the_device_does(protocol):
    pages = bl.patterns.random("16MiB", "8MiB")
    counts = bl.model.messages(pages).loc[protocol]
    run = bl.measure("16MiB", "8MiB", protocol=protocol, pattern=pages, repeats=1, progress=False)
    measured = run.frame[["n_kicks", "wire_bytes", "n_records", "n_discards"]].iloc[0]
    names = ["kicks", "wire bytes", "records", "madvise calls"]
    assert counts[names].tolist() == measured.tolist()
    assert bl.model.counts(pages, protocol) == run.frame[list(COUNTS)].iloc[0].to_dict()
    assert counts["ranges"] == len(bl.wire.decode(bl.wire.encode(pages, protocol), protocol))


def test_the_messages_of_no_pages_are_nothing():
    assert (bl.model.messages([]) == 0).all(axis=None)


@given(pages=few_words())
def test_counts_are_those_of_the_message(pages):
    table = bl.model.messages(pages)
    for protocol in ("pfn", "bitmap-v4"):
        found = bl.model.counts(pages, protocol)
        names = ["n_kicks", "wire_bytes", "n_records", "n_translations", "n_discards"]
        assert [found[name] for name in names] == table.loc[protocol].tolist()
        assert found["n_pages"] == len(pages)
