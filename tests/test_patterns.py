"""Page sets of every pattern, in every list order, and their spelling."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balloonlab as bl
from balloonlab import figures, patterns
from balloonlab.address_map import LOW_RAM_END, ram_ranges
from balloonlab.pages import as_pfns, check_in_ram

from . import naive

SPELLED = ["idle", "random", "huge", "aged", "every:8", "geometric:1.5", "geometric:32"]
HUGE = 512


def make(name, memory_pages, balloon_pages, rng=0):
    return patterns.make(name, memory_pages * 4096, balloon_pages * 4096, rng)


@pytest.mark.parametrize("name", SPELLED)
@pytest.mark.parametrize("balloon", [0, 1, 3, 4])
def test_every_pattern_honours_the_balloon_within_ram(name, balloon):
    memory_pages, balloon_pages = 4096, balloon * 128
    if name == "huge" and balloon_pages % HUGE:
        balloon_pages = HUGE
    pages = make(name, memory_pages, balloon_pages)
    assert pages.dtype == np.uint64
    assert pages.size == balloon_pages
    check_in_ram(pages, memory_pages)
    assert np.array_equal(pages, make(name, memory_pages, balloon_pages))


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("name", ["huge", "every:8", "geometric:1.5", "geometric:32"])
def test_patterns_of_large_guests_leave_the_hole_alone_and_use_all_of_ram(name):
    memory_pages = LOW_RAM_END + 300_000
    balloon_pages = -(-memory_pages // 8) // HUGE * HUGE
    pages = make(name, memory_pages, balloon_pages)
    assert pages.size == balloon_pages
    check_in_ram(pages, memory_pages)
    assert (np.diff(pages.astype(np.int64)) > 0).all()
    assert pages.min() < 10_000
    assert pages.max() > ram_ranges(memory_pages)[-1].end - 10_000


@pytest.mark.parametrize("name", ["random", "huge", "aged", "geometric:8"])
def test_the_seed_makes_the_page_set(name):
    sets = [make(name, 8192, 2048, rng) for rng in (0, 1, np.random.default_rng(1))]
    assert not np.array_equal(np.sort(sets[0]), np.sort(sets[1]))
    assert np.array_equal(sets[1], sets[2])


@given(memory=st.integers(2, 3000), share=st.floats(0, 0.999), k=st.integers(1, 40))
def test_every_takes_each_kth_page_or_says_what_would_fit(memory, share, k):
    balloon = int(memory * share)
    candidates = list(range(memory))[::k]
    if balloon <= len(candidates):
        assert make(f"every:{k}", memory, balloon).tolist() == candidates[:balloon]
    else:
        with pytest.raises(ValueError, match=rf"\({len(candidates)} pages\).*every:{k}") as error:
            make(f"every:{k}", memory, balloon)
        fitting = int(str(error.value).rsplit(" ", 1)[1])
        assert make(f"every:{fitting}", memory, balloon).size == balloon
        assert len(range(0, memory, fitting + 1)) < balloon


@pytest.mark.slow_interpreted
def test_every_counts_in_ram_and_not_in_page_numbers():
    pages = patterns.every("4GiB", "500MiB", 7)
    expected = np.concatenate([np.arange(*piece) for piece in ram_ranges(1 << 20)])[::7]
    assert np.array_equal(pages, expected[: pages.size])


@given(
    memory=st.integers(2, 3000),
    share=st.floats(0, 0.999),
    mean=st.one_of(st.just(1), st.floats(1, 100)),
    seed=st.integers(0, 5),
)
def test_geometric_has_as_many_runs_as_its_mean_says(memory, share, mean, seed):
    balloon = int(memory * share)
    n_runs = max(1, round(balloon / mean)) if balloon else 0
    arguments = memory * 4096, balloon * 4096
    if n_runs <= memory - balloon + 1:
        pages = patterns.geometric(*arguments, mean, rng=seed).tolist()
        assert len(pages) == len(set(pages)) == balloon
        assert len(naive.runs(pages)) == n_runs
        assert not pages or 0 <= pages[0] <= pages[-1] < memory
        return
    with pytest.raises(ValueError, match=r"with pattern geometric:") as error:
        patterns.geometric(*arguments, mean, rng=seed)
    words = str(error.value).split()
    fits, mean_that_fits = int(words[words.index("pages)") - 1][1:]), float(words[-3])
    assert patterns.geometric(memory * 4096, fits * 4096, mean).size == fits < balloon
    assert patterns.geometric(*arguments, mean_that_fits).size == balloon


def test_geometric_reaches_every_set_with_that_many_runs():
    drawn = {tuple(patterns.geometric(8 * 4096, 4 * 4096, 2, rng=i).tolist()) for i in range(600)}
    assert drawn == naive.page_sets_of(8, size=4, n_runs=2)


def test_geometric_run_lengths_are_geometric():
    """Of 10,000 runs with mean 5 a share 0.8**i is longer than i, within 5 sigma."""
    pages = patterns.geometric("400MiB", 50_000 * 4096, 5, rng=3)
    lengths = np.array([length for _, length in naive.runs(pages.tolist())])
    assert lengths.size == 10_000
    for i in range(1, 20):
        expected = 0.8**i
        sigma = (expected * (1 - expected) / lengths.size) ** 0.5
        assert abs((lengths > i).mean() - expected) < 5 * sigma


@pytest.mark.slow_interpreted
def test_a_run_across_the_hole_counts_as_one():
    """A single free page: one run or two, so one run at the most is cut by the hole."""
    memory_pages = LOW_RAM_END + 2000
    pages = patterns.geometric(memory_pages * 4096, (memory_pages - 1) * 4096, 1e9)
    (cut,) = np.flatnonzero(np.diff(pages.astype(np.int64)) != 1)
    assert pages[cut : cut + 2].tolist() == [LOW_RAM_END - 1, 1 << 20]


@given(blocks=st.integers(1, 12), taken=st.integers(0, 12), extra=st.integers(0, 511))
def test_huge_takes_whole_aligned_blocks(blocks, taken, extra):
    memory = blocks * HUGE + extra
    if taken * HUGE >= memory:
        taken = max(0, blocks - 1)
    pages = make("huge", memory, taken * HUGE).astype(np.int64)
    starts = pages[::HUGE]
    assert (starts % HUGE == 0).all()
    assert np.array_equal(pages, (starts[:, None] + np.arange(HUGE)).ravel())
    assert (np.diff(starts) > 0).all()
    assert not taken or starts[-1] + HUGE <= memory


def test_huge_refuses_parts_of_huge_pages():
    with pytest.raises(ValueError, match=r"has 8192, got '7172KiB'.*fits is 6 MiB"):
        patterns.huge("16GiB", "7172KiB")
    with pytest.raises(ValueError, match=r"has 1, got '2564KiB'.*fits is 2 MiB"):
        patterns.huge("3MiB", "2564KiB")


def test_impossible_balloons_are_refused_with_what_would_fit():
    with pytest.raises(ValueError, match=r"at most 1 GiB \(262144 pages\) with pattern every:8"):
        patterns.every("8GiB", "7GiB", 8)
    with pytest.raises(ValueError, match=r"at most 6 GiB .* geometric:3 .* MEAN of 7 or more"):
        patterns.geometric("8GiB", "7GiB", 3)
    with pytest.raises(ValueError, match=r"at most 7.2 GiB .* held=0.0312 instead of 0.1"):
        patterns.aged("8GiB", "7936MiB")
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
            patterns.every("8GiB", "1GiB", k)
    for mean in (0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="mean_run must be at least 1 page"):
            patterns.geometric("8GiB", "1GiB", mean)


@given(pages=st.lists(st.integers(0, 10_000), unique=True), seed=st.integers(0, 5))
def test_orders_keep_the_set(pages, seed):
    assert patterns.ordered(pages, "as is").tolist() == pages
    assert patterns.ordered(pages, "ascending").tolist() == sorted(pages)
    assert patterns.ordered(pages, "descending").tolist() == sorted(pages, reverse=True)
    shuffled = patterns.ordered(pages, "shuffled", rng=seed)
    assert sorted(shuffled.tolist()) == sorted(pages)
    again = patterns.ordered(pages, "shuffled", np.random.default_rng(seed))
    assert np.array_equal(shuffled, again)
    for order in patterns.ORDERS:
        result = patterns.ordered(pages, order)
        assert result.dtype == np.uint64
        assert result.flags.c_contiguous  # the form that kernels take


def test_orders_leave_their_argument_alone():
    pages = np.array([5, 3, 9], np.uint64)
    for order in patterns.ORDERS:
        patterns.ordered(pages, order)
    assert pages.tolist() == [5, 3, 9]
    assert len({tuple(patterns.ordered(range(50), "shuffled", rng=i)) for i in range(4)}) == 4
    with pytest.raises(ValueError, match="one of as is, ascending, descending, shuffled, got 'up'"):
        patterns.ordered(pages, "up")


def test_spellings_are_the_functions():
    arguments = "16MiB", "2MiB"
    for name, expected in [
        ("idle", patterns.idle(*arguments)),
        ("random", patterns.random(*arguments, rng=5)),
        ("huge", patterns.huge(*arguments, rng=5)),
        ("aged", patterns.aged(*arguments, rng=5)),
        ("every:8", patterns.every(*arguments, 8)),
        ("geometric:32", patterns.geometric(*arguments, 32, rng=5)),
        ("geometric:1.25", patterns.geometric(*arguments, 1.25, rng=5)),
    ]:
        assert np.array_equal(patterns.make(name, *arguments, rng=5), expected)
    for name in patterns.PATTERNS:
        two_arguments = patterns.PATTERNS[name](*arguments)
        assert np.array_equal(two_arguments, patterns.make(name, *arguments))
    assert set(patterns.PATTERNS) == {name for name in patterns.names() if ":" not in name}
    for name in set(patterns.names()) - {"trace:NAME"}:  # in test_traces.py
        assert patterns.make(name.replace("K", "8").replace("MEAN", "3"), *arguments).size == 512


@pytest.mark.parametrize(
    "name",
    ["", "Idle", "every", "every:", "every:0", "every:08", "every:8 ", "every:1.5", "every:-1",
     "geometric", "geometric:0.5", "geometric:1.50", "geometric:2.0", "geometric:1e3",
     "geometric:nan", "random:0.5", "checkers", None, 3, ["idle"], "every:K"],
)  # fmt: skip
def test_other_spellings_are_refused(name):
    with pytest.raises(ValueError, match="one of idle, random, huge, aged, every:K, geometric:M"):
        patterns.make(name, "16MiB", "1MiB")


def test_errors_name_the_nearest_choice_and_the_given_argument():
    with pytest.raises(ValueError, match="got 'idel'; the nearest is 'idle'"):
        patterns.make("idel", "16MiB", "1MiB")
    with pytest.raises(ValueError, match="got 'shufled'; the nearest is 'shuffled'"):
        patterns.ordered([1], "shufled")
    for pages, message in (
        ([1, 1], "pattern must not repeat a page"),
        ([5000], "pattern must be the guest's RAM"),
        ([-1], "pattern must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            bl.measure(pattern=pages, memory="16MiB", progress=False)


def test_masked_pages_are_refused():
    masked = np.ma.masked_array([3, 4, 5], mask=[False, True, False])
    with pytest.raises(ValueError, match="earlier must not have masked entries"):
        as_pfns(masked, "earlier")
    assert as_pfns(np.ma.masked_array([3, 4])).tolist() == [3, 4]


@pytest.mark.parametrize("name", ["idle", "random", "every:2", "geometric:4", "huge"])
def test_page_numbers_beyond_the_available_memory_are_refused_before_they_are_made(name):
    with pytest.raises(MemoryError, match=r"33 TiB need 132 GiB .* would fit"):
        patterns.make(name, "100TiB", "33TiB")


def test_a_spelling_survives_a_csv_file(tmp_path):
    names = ["idle", "every:8", "geometric:1.5"]
    pd.DataFrame({"pattern": names}).to_csv(tmp_path / "names.csv", index=False)
    assert pd.read_csv(tmp_path / "names.csv")["pattern"].tolist() == names


@pytest.mark.once
def test_the_map_shows_each_page_of_each_set():
    import matplotlib.pyplot as plt

    sets = {name: make(name, 1000, 100, 3) for name in ("random", "every:8")}
    ax = figures.patterns(sets, n_pages=900)
    (image,) = ax.get_images()
    picture = image.get_array().filled(-1)
    for shown, pages in zip((picture[:2], picture[-2:]), sets.values(), strict=True):
        flat = shown.ravel()
        assert np.flatnonzero(flat == 1).tolist() == sorted(p for p in pages.tolist() if p < 900)
        assert np.flatnonzero(flat == -1).tolist() == list(range(900, 1024))
    assert (picture[2:-2] == -1).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(sets)
    assert ax.texts[1].get_text() == "11.1 % taken\nmean run 1"
    plt.close(ax.figure)


@pytest.mark.once
def test_the_map_may_start_anywhere():
    import matplotlib.pyplot as plt

    ax = figures.patterns({"run": range(600, 650)}, n_pages=512, first_pfn=620)
    (image,) = ax.get_images()
    assert np.flatnonzero(image.get_array().filled(-1)[:1].ravel() == 1).tolist() == [*range(30)]
    assert "2 MiB from page 620 on" in ax.get_title(loc="left")
    with pytest.raises(ValueError, match="first_pfn must be a whole number of at least 0"):
        figures.patterns({"run": [1]}, first_pfn=-1)
    with pytest.raises(ValueError, match="n_pages must be a whole number of at least 1"):
        figures.patterns({"run": [1]}, n_pages=0)
    plt.close(ax.figure)


@pytest.mark.once
def test_occupancy_bars_are_the_shares_of_words():
    import matplotlib.pyplot as plt

    _, mine = plt.subplots()
    sets = {"every:8": make("every:8", 4096, 512), "huge": [*range(512), *range(1024, 1536)]}
    ax = figures.occupancy(sets, ax=mine)
    assert ax is mine
    widths = np.array([[bar.get_width() for bar in bars] for bars in ax.containers])
    assert widths.T.tolist() == [[0, 1, 0, 0, 0, 0], pytest.approx([1 / 3, 0, 0, 0, 0, 2 / 3])]
    assert [text.get_text() for text in ax.texts[:2]] == ["100 %", "0 %"]
    plt.close(ax.figure)
    for figure in (figures.occupancy, figures.patterns):
        with pytest.raises(ValueError, match="sets must hold at least one page set"):
            figure({})
