"""The driver as posted: the smallest page set for each defect, and how often each one shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..address_map import ram_ranges
from ..kernels.posted import BITMAP_PAGES, FAULTS, OVERRUN, SET_BIT_NULL, WALK_FREED, WALK_NULL
from ..pages import patterns
from ..sizes import Size, format_size, parse_pages, parse_size
from ..terminal import Progress
from .posted import PostedRun, run_posted

SEARCHED_GIB = 66
"""Page numbers that the search draws from: two windows of 32 bitmaps, and a little more."""


def _fault(kind: int) -> Callable[[PostedRun], bool]:
    return lambda run: run.fault is not None and run.fault.what == FAULTS[kind]


DEFECTS: dict[str, Callable[[PostedRun], bool]] = {
    "a page is never sent": lambda run: run.fault is None and run.never_sent.size > 0,
    "a page is sent again": lambda run: run.fault is None and run.sent_again.size > 0,
    "a bit is set in a freed bitmap": _fault(SET_BIT_NULL),
    "a freed bitmap is to be walked": _fault(WALK_NULL),
    "a bitmap is freed while walked": _fault(WALK_FREED),
    "the record area overruns": _fault(OVERRUN),
}
"""What can be seen of the posted driver from outside, and how."""


@dataclass(frozen=True)
class Example:
    """The smallest input that the search found for a defect, and what came of it."""

    defect: str  # one of `DEFECTS`
    pfns: npt.NDArray[np.uint64]  # pages of the inflation
    earlier: npt.NDArray[np.uint64]  # those in the balloon before
    bitmaps: int  # that the guest had memory for
    failing_sends: int  # so many find no room on the queue, from the first one on
    run: PostedRun = field(repr=False)


def smallest(defect: str) -> Example:
    """Search for the smallest page set on which the posted driver shows a defect.

    hypothesis draws unions of arithmetic progressions and shrinks the first one that shows it:
    fewer pages, smaller numbers, 32 bitmaps rather than fewer, no earlier pages, no failing send.
    The same call finds the same `Example`.

    Parameters
    ----------
    defect : str
        One of `DEFECTS`; else a ValueError.

    Raises
    ------
    ImportError
        hypothesis is not installed (``pip install -e '.[notebooks]'``).
    """
    try:
        import hypothesis
    except ImportError as error:
        raise ImportError(
            "the search needs hypothesis, which is not installed: pip install -e '.[notebooks]'"
        ) from error
    from hypothesis import strategies as st

    if defect not in DEFECTS:
        raise ValueError(f"defect must be one of {', '.join(DEFECTS)}, got {defect!r}")
    page = st.builds(
        lambda gib, word, bit: gib * BITMAP_PAGES + 64 * word + bit,
        st.integers(0, SEARCHED_GIB),
        st.integers(0, BITMAP_PAGES // 64 - 1),
        st.integers(0, 63),
    )
    count = st.one_of(st.just(1), st.integers(1, 3000))
    progression = st.tuples(page, st.sampled_from([1, 64]), count)
    again, overrun = "a page is sent again", "the record area overruns"
    inputs = st.tuples(
        st.lists(progression, min_size=1, max_size=3),
        st.lists(progression, max_size=1 if defect == again else 0),
        st.sampled_from([32, 2, 1]),
        st.integers(0, 40 if defect == overrun else 0),
    )
    settings = hypothesis.settings(
        max_examples=3000,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def attempt(drawn: tuple[Progressions, Progressions, int, int]) -> Example:
        parts, before, bitmaps, failing = drawn
        pfns = _union(parts)
        earlier = np.setdiff1d(_union(before), pfns)
        run = run_posted(pfns, earlier, bitmaps, failing_sends=range(failing))
        return Example(defect, pfns, earlier, bitmaps, failing, run)

    shows = DEFECTS[defect]
    return attempt(
        hypothesis.find(inputs, lambda drawn: shows(attempt(drawn).run), settings=settings)
    )


Progressions = list[tuple[int, int, int]]


def _union(progressions: Progressions) -> npt.NDArray[np.uint64]:
    parts = [first + step * np.arange(n) for first, step, n in progressions]
    return np.unique(np.concatenate([*parts, np.zeros(0, np.int64)])).astype(np.uint64)


SENT_ONCE = "every page sent once"


def outcome(run: PostedRun) -> str:
    """Name what came of a run: the defect that it shows, or `SENT_ONCE`."""
    shown = (name for name, shows in DEFECTS.items() if shows(run))
    return next(shown, SENT_ONCE)


def defect_rates(
    memory: Iterable[Size],
    mean_runs: Iterable[int],
    trials: int = 5,
    seed: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Encode random balloons as the posted driver does, and see what comes of each.

    Nothing is measured. Each balloon is half of a guest's pages, in runs of geometric length; the
    guest's memory decides how many bitmaps there are.

    Parameters
    ----------
    memory : iterable of int or str
        Sizes of guests.
    mean_runs : iterable of int
        Mean lengths of the runs, in pages.
    trials, seed : int
        Page sets for each; the same seed draws the same ones.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row a page set: ``memory_bytes``, ``balloon_bytes``, ``mean_run_pages``, ``trial``,
        ``outcome`` (`SENT_ONCE` or one of `DEFECTS`), ``n_kicks`` and ``sent_share`` of the
        balloon before the end.
    """
    cases = list(product(memory, mean_runs, range(trials)))
    rng = np.random.default_rng(seed)
    rows = []
    with Progress(len(cases), progress) as bar:
        for size, mean_run, trial in cases:
            memory_bytes = parse_size(size, "memory")
            max_pfn = ram_ranges(parse_pages(size, "memory"))[-1].end
            bar.describe(f"as posted: {format_size(memory_bytes)}, runs of {mean_run}")
            pages = patterns.geometric(size, memory_bytes // 2, mean_run, rng)
            run = run_posted(pages, max_pfn=max_pfn)
            share = run.sent.size / pages.size
            about = memory_bytes, memory_bytes // 2, mean_run, trial
            rows.append((*about, outcome(run), len(run.buffers), share))
            bar.advance()
    about_columns = ["memory_bytes", "balloon_bytes", "mean_run_pages", "trial"]
    return pd.DataFrame(rows, columns=[*about_columns, "outcome", "n_kicks", "sent_share"])
