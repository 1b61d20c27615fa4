"""What is behind guest RAM, and what each call does to it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab.host import BACKINGS, VERBS, GuestRam, Policy, hugetlb
from balloonlab.host.backing import Effect
from balloonlab.host.crew import Crew
from balloonlab.host.ram import DRIVER_BYTES
from balloonlab.kernels import contents
from balloonlab.kernels import discard as kernels
from balloonlab.measurement import case as cases
from balloonlab.sizes import HUGE_BYTES, MIB, PAGE_BYTES

from . import naive
from .kvm import MARKS
from .test_discards import extents, rows_of

pytestmark = pytest.mark.once

N_PAGES = 2048
USABLE = [(backing, verb) for backing, row in BACKINGS.items() for verb in row.usable]
REFUSED = [
    (backing, verb) for backing, row in BACKINGS.items() for verb in row.verbs
    if verb not in row.usable
]  # fmt: skip


def ram_of(backing, n_pages=N_PAGES):
    """RAM of a kind; a test is skipped where there are no huge pages to reserve."""
    try:
        return GuestRam(n_pages, backing=backing)
    except MemoryError as error:
        if backing != "hugetlb":
            raise
        pytest.skip(str(error))


def test_every_call_on_every_backing_is_made_or_has_its_reason():
    assert all(set(row.verbs) == set(VERBS) for row in BACKINGS.values())
    assert len(USABLE) == 13
    for backing, verb in REFUSED:
        assert len(BACKINGS[backing].verbs[verb]) > 20


@pytest.mark.parametrize(("backing", "verb"), USABLE)
def test_a_call_does_to_memory_what_its_row_says_and_nothing_outside(backing, verb):
    ram, effect = ram_of(backing), BACKINGS[backing].effect(verb)
    n = ram.backing.page_bytes // PAGE_BYTES
    gone = np.zeros(N_PAGES, bool)
    gone.reshape(-1, n)[1::2] = True
    offsets = np.flatnonzero(gone[::n]) * n * PAGE_BYTES
    rows = rows_of([(offset, n * PAGE_BYTES) for offset in offsets.tolist()])
    ram.touch()
    before = ram.held_bytes()
    with Crew(Policy("range"), ram.memory, ram.verb(verb), len(rows)) as crew:
        n_calls, failed, _ = crew.timed_discard(rows, np.zeros(2, np.int64))
    freed = before - ram.held_bytes()
    assert (n_calls, failed) == (len(rows), 0)
    assert freed == (gone.sum() * PAGE_BYTES if effect.frees else 0)
    if effect.frees:
        assert ram.resident().tolist() == (~gone).tolist()
    zero, old, other = ram.read_back(gone)
    whole = int(gone.sum())
    assert {"zero": zero, "old": old, "file": other, "either": zero + old}[effect.reads] == whole
    assert ram.count_lost(gone) == 0


@pytest.mark.parametrize("guest", ["thread", pytest.param("kvm", marks=MARKS)])
@pytest.mark.parametrize(("backing", "verb"), USABLE)
@pytest.mark.parametrize(("protocol", "pattern"), [("pfn", "random"), ("bitmap-v4", "idle")])
def test_measured_is_what_was_really_done(guest, backing, verb, protocol, pattern):
    ram_of(backing, 1)
    run = bl.measure(
        memory="8MiB", balloon="4MiB", guest=guest, backing=backing, verb=verb, protocol=protocol,
        pattern=pattern, repeats=1, progress=False,
    )  # fmt: skip
    (check,) = run.checks.to_dict("records")
    assert run.frame[["backing", "verb"]].drop_duplicates().to_numpy().tolist() == [[backing, verb]]
    frees = BACKINGS[backing].effect(verb).frees
    whole = 0 if backing == "hugetlb" and pattern == "random" else 4 * MIB
    assert check["freed_bytes"] == (whole if frees else 0)
    assert check["mappings_after"] >= (100 if (verb, whole, pattern) == ("map", whole, "random")
                                       and backing != "hugetlb" else 1)  # fmt: skip


@pytest.mark.parametrize("backing", BACKINGS)
def test_cases_of_every_call_take_turns_on_the_same_ram(backing):
    """What one call left of the mapping is none of the next one's business."""
    ram_of(backing, 1)
    verbs = BACKINGS[backing].usable
    cases = [{"verb": verb} for verb in verbs]
    run = bl.compare(cases, memory="16MiB", backing=backing, repeats=3, progress=False)
    frame = run.frame.drop_duplicates("run_id").set_index("run_id")["verb"]
    for run_id, rows in run.checks.groupby("run_id"):
        frees = BACKINGS[backing].effect(frame[run_id]).frees
        assert (rows["freed_bytes"] == (14 * MIB if frees else 0)).all()


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("backing", BACKINGS)
def test_deflation_and_untouched_memory_behind_each(backing, touched, operation):
    ram_of(backing, 1)
    run = bl.measure(
        memory="16MiB", backing=backing, touched=touched, operation=operation, repeats=2,
        progress=False,
    )  # fmt: skip
    expected = 14 * MIB if touched and operation == "inflate" else 0
    assert run.checks["freed_bytes"].tolist() == [expected] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"verb": "punch"}, "verb must be 'dontneed' or 'free' or 'map' with backing='anonymous'"),
        ({"backing": "memfd", "verb": "free"}, "MADV_FREE is of private anonymous memory alone"),
        ({"backing": "file", "verb": "punch"}, "it is the snapshot's file"),
        ({"backing": "tape"}, "backing must be one of anonymous, memfd, hugetlb, file, got 'tape'"),
        ({"verb": "dontned"}, "did you mean 'dontneed'"),
        ({"backing": "file", "thp": True}, "thp must be False with backing='file'"),
        ({"backing": "hugetlb", "thp": True}, "its pages are huge as they are"),
        ({"backing": "hugetlb", "memory": "9MiB"}, "memory must be whole pages of 2 MiB"),
        ({"backing": "hugetlb", "balloon": "1MiB"}, "balloon must be whole pages of 2 MiB"),
        ({"backing": "memfd", "verb": "punch", "discard": "vector"}, "verb must be a madvise with"),
        ({"host": "qemu", "backing": "file"}, "backing must be one of anonymous, memfd, hugetlb"),
        ({"host": "qemu", "backing": "memfd", "verb": "remove"}, "nothing else is done there"),
        ({"guest": "linux", "memory": "256MiB", "verb": "punch"}, "verb must be 'remove' with"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(options, words):
    with pytest.raises(ValueError, match=words):
        bl.measure(**{"memory": "8MiB", "repeats": 1, **options})


def test_a_balloon_of_too_many_mappings_is_refused_before_the_work(monkeypatch, tmp_path):
    limit = tmp_path / "max_map_count"
    limit.write_text("2100\n")
    monkeypatch.setattr(cases, "MAX_MAP_COUNT", limit)
    with pytest.raises(ValueError, match=r"leaves 100: these 512 pages have [0-9]+ runs"):
        bl.measure(memory="4MiB", balloon="2MiB", verb="map", pattern="random", repeats=1)
    assert len(bl.measure(memory="4MiB", balloon="2MiB", verb="map", repeats=1).frame)


def test_a_discard_that_does_not_free_is_not_reported_as_one_that_does(monkeypatch):
    """A memfd whose row claimed that MADV_DONTNEED frees it, as VMMs assume."""
    row = BACKINGS["memfd"]
    lie = row._replace(verbs={**row.verbs, "dontneed": Effect(frees=True, reads="zero")})
    monkeypatch.setitem(BACKINGS, "memfd", lie)
    with pytest.raises(RuntimeError, match="ballooned pages are still backed"):
        bl.measure(memory="8MiB", backing="memfd", verb="dontneed", repeats=1, progress=False)
    shy = row._replace(verbs={**row.verbs, "remove": Effect(frees=False, reads="zero")})
    monkeypatch.setitem(BACKINGS, "memfd", shy)
    with pytest.raises(RuntimeError, match="verb='remove' on backing='memfd' must free"):
        bl.measure(memory="8MiB", backing="memfd", verb="remove", repeats=1, progress=False)


@given(extents(), st.integers(0, 40), st.integers(1, 8))
def test_huge_pages_go_when_all_of_one_is_in_the_balloon(pairs, missing, words):
    page_bytes = words * kernels.WORD_BYTES
    pages = {page for offset, n in pairs for page in range(offset // 4096, (offset + n) // 4096)}
    rng = np.random.default_rng(missing)
    inside = set(range(2000 + 512)) if missing < 20 else pages
    inside = pages | (inside - set(rng.integers(0, 2500, missing).tolist()))
    balloon = np.zeros(64 * words, np.uint64)
    for page in inside:
        balloon[page // 64] |= np.uint64(1 << page % 64)
    room = [np.zeros((len(pairs), 2), np.int64) for _ in range(2)]
    vectors = kernels.Vectors(-1, rows_of([]), *room)
    n = kernels.complete(rows_of(pairs), balloon, page_bytes, vectors)
    assert vectors.whole[:n].tolist() == naive.complete(pairs, inside, page_bytes)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 60)), max_size=40))
def test_extents_that_overlap_are_merged(pairs):
    rows = rows_of(pairs)
    n = kernels.sort_extents(rows, np.zeros_like(rows))
    assert rows[:n].tolist() == naive.sort_extents(pairs)


def test_reading_back_counts_what_pages_hold(rng):
    ram = np.zeros(100 * PAGE_BYTES, np.uint8)
    words, signature = ram.view(np.uint64), int(contents.SIGNATURE)
    for page, what in enumerate(rng.integers(0, 3, 100).tolist()):
        words[512 * page] = [0, page ^ signature, 7][what]
    inside = np.flatnonzero(rng.random(100) < 0.5).tolist()
    bits, found = np.zeros(2, np.uint64), np.zeros(3, np.int64)
    for page in inside:
        bits[page // 64] |= np.uint64(1 << page % 64)
    contents.read_back(ram, 100, bits, found)
    assert found.tolist() == naive.read_back(words.tolist(), inside, signature)


def refuse(n_pages):
    raise PermissionError(13, "Permission denied")


def test_a_pool_of_huge_pages_is_given_back_and_its_lack_explained(monkeypatch, tmp_path):
    for name, value in (("nr_hugepages", 3), ("free_hugepages", 2), ("resv_hugepages", 1)):
        (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(hugetlb, "POOL", tmp_path)
    hugetlb.reserve(3 * HUGE_BYTES)
    assert (tmp_path / "nr_hugepages").read_text() == "6\n"
    hugetlb.reserve(HUGE_BYTES)
    assert (tmp_path / "nr_hugepages").read_text() == "7\n"
    hugetlb.give_back()
    hugetlb.give_back()
    assert (tmp_path / "nr_hugepages").read_text() == "3\n"
    monkeypatch.setattr(hugetlb, "_write", lambda n: None)
    with pytest.raises(MemoryError, match=r"needs 3 huge pages .*, 1 are free, and .* echo 6"):
        hugetlb.reserve(3 * HUGE_BYTES)
    hugetlb.reserve(HUGE_BYTES)  # one that is free
    hugetlb.give_back()
    monkeypatch.setattr(hugetlb, "_write", refuse)
    with pytest.raises(MemoryError, match=r"cannot be made larger from here \(Permission denied\)"):
        hugetlb.reserve(3 * HUGE_BYTES)
    monkeypatch.setattr(hugetlb, "POOL", tmp_path / "none")
    with pytest.raises(MemoryError, match="this kernel has no"):
        hugetlb.reserve(HUGE_BYTES)


def test_a_pool_that_others_empty_is_an_error_and_no_crash(monkeypatch):
    """What a hole gave back is the pool's: gone when somebody makes the pool smaller."""
    ram = ram_of("hugetlb")

    def refuse(address, n_bytes, advice, what):
        raise OSError(14, "Bad address")  # what the kernel says where a touch would be SIGBUS

    monkeypatch.setattr("balloonlab.host.ram.advise", refuse)
    with pytest.raises(MemoryError, match="the pool of huge pages has none left for guest RAM"):
        ram.touch()
    with pytest.raises(MemoryError, match="has none left"):
        ram.read_back(np.ones(N_PAGES, bool))


def test_huge_pages_go_back_with_the_ram():
    pool = Path(hugetlb.POOL / "nr_hugepages")
    ram = ram_of("hugetlb")
    ram.touch()
    with_ram = int(pool.read_text())
    added = hugetlb._added[-1]
    assert with_ram >= added == -(-(N_PAGES * PAGE_BYTES + DRIVER_BYTES) // HUGE_BYTES)
    n_added = len(hugetlb._added)
    del ram
    assert len(hugetlb._added) == n_added - 1
