"""Page sets scattered over all of a guest's RAM: at random, every k-th, in runs, in huge pages."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..address_map import check_sizes, ram_ranges
from ..sizes import PAGE_BYTES, Size, format_size
from .checks import Seed, check_room

HUGE_PAGE = 512
"""Pages in a huge page of x86-64 (2 MiB)."""


def random(memory: Size, balloon: Size, rng: Seed = 0) -> npt.NDArray[np.uint64]:
    """Return pages drawn at random from all of the guest's RAM, in ascending order.

    Every set of that size is equally likely. Its density is ``balloon / memory``.

    Parameters
    ----------
    memory, balloon : int or str
        Sizes of the guest and of the balloon.
    rng : int or numpy.random.Generator
        Seed or generator; the same seed gives the same pages.

    Returns
    -------
    uint64 array, shape (balloon / 4 KiB,)

    Raises
    ------
    ValueError
        The balloon does not fit the guest (`balloonlab.address_map.check_sizes`).
    MemoryError
        The page numbers do not fit the memory that is available.

    Examples
    --------
    >>> random("1MiB", "16KiB", rng=0).size
    4
    """
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    check_room(balloon_pages)
    generator = np.random.default_rng(rng)
    chosen = np.zeros(memory_pages, bool)
    chosen[generator.choice(memory_pages, balloon_pages, replace=False, shuffle=False)] = True
    return _in_ram(np.flatnonzero(chosen), memory_pages)


def every(memory: Size, balloon: Size, k: int) -> npt.NDArray[np.uint64]:
    """Return every k-th page of the guest's RAM, from its first page upwards.

    Sizes, result and errors as in `random`; besides, RAM with fewer such pages than the balloon
    raises ``ValueError``. A balloon smaller than ``memory / k`` takes the first pages.

    Parameters
    ----------
    k : int
        Distance of two pages, counted in RAM: the hole below 4 GiB does not count.
    """
    memory_pages, balloon_pages = check_every(memory, balloon, k)
    check_room(balloon_pages)
    return _in_ram(np.arange(balloon_pages) * k, memory_pages)


def geometric(
    memory: Size, balloon: Size, mean_run: float, rng: Seed = 0
) -> npt.NDArray[np.uint64]:
    """Take runs of pages whose lengths, and those of the gaps, are geometrically distributed.

    The number of runs is the balloon divided by `mean_run`, rounded, at least one;
    every set of that many pages in that many runs is equally likely. Run lengths are then
    independent and geometric but for their fixed sum (a run that crosses the hole below
    4 GiB counts as one).

    Sizes, seed, result and errors as in `random`; besides, too little memory to keep the runs
    apart raises ``ValueError``.

    Parameters
    ----------
    mean_run : float
        Mean length of a run in pages, at least 1.

    Examples
    --------
    >>> geometric("1MiB", "16KiB", mean_run=4)
    array([215, 216, 217, 218], dtype=uint64)
    """
    memory_pages, balloon_pages = check_geometric(memory, balloon, mean_run)
    check_room(balloon_pages)
    if balloon_pages == 0:
        return np.zeros(0, np.uint64)
    n_runs = max(1, round(balloon_pages / mean_run))
    gap_pages = memory_pages - balloon_pages
    generator = np.random.default_rng(rng)
    runs = _composition(balloon_pages, n_runs, generator)
    gaps = _composition(gap_pages + 2, n_runs + 1, generator)  # the outer two may be empty
    before = np.cumsum(gaps[:-1]) - 1
    return _in_ram(np.arange(balloon_pages) + np.repeat(before, runs), memory_pages)


def huge(memory: Size, balloon: Size, rng: Seed = 0) -> npt.NDArray[np.uint64]:
    """Return whole huge pages, drawn at random: aligned blocks of 512 pages, in ascending order.

    As `random`; besides, a balloon that is no multiple of 2 MiB, or more than the guest's whole
    huge pages, raises ``ValueError``.
    """
    memory_pages, balloon_pages = check_huge(memory, balloon)
    check_room(balloon_pages)
    n, room = balloon_pages // HUGE_PAGE, memory_pages // HUGE_PAGE
    blocks = np.sort(np.random.default_rng(rng).choice(room, n, replace=False, shuffle=False))
    pages = blocks[:, None] * HUGE_PAGE + np.arange(HUGE_PAGE)
    return _in_ram(pages.ravel(), memory_pages)


def check_every(memory: Size, balloon: Size, k: int) -> tuple[int, int]:
    """Return both sizes in pages after the checks of `every`, of guests of any size."""
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
    room = -(-memory_pages // k)
    if balloon_pages > room:
        fitting_k = (memory_pages - 1) // (balloon_pages - 1)
        raise too_large(f"every:{k}", memory, balloon, room, f"a K of at most {fitting_k}")
    return memory_pages, balloon_pages


def check_geometric(memory: Size, balloon: Size, mean_run: float) -> tuple[int, int]:
    """Return both sizes in pages after the checks of `geometric`, of guests of any size."""
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    if not 1 <= mean_run < np.inf:
        raise ValueError(f"mean_run must be at least 1 page, got {mean_run!r}")
    n_runs = max(1, round(balloon_pages / mean_run))
    gap_pages = memory_pages - balloon_pages
    if balloon_pages and n_runs > gap_pages + 1:
        room = int((memory_pages + 1) * mean_run / (mean_run + 1))
        longer = math.ceil(100 * balloon_pages / (gap_pages + 1)) / 100
        other = f"a MEAN of {longer:g} or more"
        raise too_large(f"geometric:{mean_run:g}", memory, balloon, room, other)
    return memory_pages, balloon_pages


def check_huge(memory: Size, balloon: Size) -> tuple[int, int]:
    """Return both sizes in pages after the checks of `huge`, of guests of any size."""
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    n, rest = divmod(balloon_pages, HUGE_PAGE)
    room = memory_pages // HUGE_PAGE
    if rest or n > room:
        fits = format_size(min(n, room) * HUGE_PAGE * PAGE_BYTES)
        raise ValueError(
            f"balloon must be whole huge pages of 2 MiB with pattern huge, of which memory="
            f"{memory!r} has {room}, got {balloon!r}; the next smaller that fits is {fits}"
        )
    return memory_pages, balloon_pages


def too_large(
    pattern: str, memory: Size, balloon: Size, room_pages: int, otherwise: str
) -> ValueError:
    """Return the error of a balloon that a pattern has too few pages for."""
    room = f"{format_size(room_pages * PAGE_BYTES)} ({room_pages} pages)"
    return ValueError(
        f"balloon must be at most {room} with pattern {pattern} and memory={memory!r}, "
        f"got {balloon!r}; a balloon of that size needs {otherwise}"
    )


def _in_ram(numbers: npt.NDArray[np.integer], memory_pages: int) -> npt.NDArray[np.uint64]:
    """Return the page numbers of RAM pages that are counted from 0."""
    pages = numbers.astype(np.uint64)
    low, *high = ram_ranges(memory_pages)
    for start, _ in high:
        pages[numbers >= low.end] += np.uint64(start - low.end)
    return pages


def _composition(total: int, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Cut `total` into `n` parts of at least 1, every way equally likely."""
    cuts = 1 + np.sort(rng.choice(total - 1, n - 1, replace=False, shuffle=False))
    return np.diff(cuts, prepend=0, append=total)
