"""Synthetic page sets: the pages that a guest would hand to its balloon.

Every function returns page numbers of a PC guest's RAM (`balloonlab.layout`), in
the order in which the guest allocates them, as a ``uint64`` array.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..layout import check_sizes, ram_ranges, zones
from ..sizes import Size

MAX_BLOCK = 1024
"""Pages in the allocator's largest block (order 10, 4 MiB)."""


def idle(memory: Size, balloon: Size) -> npt.NDArray[np.uint64]:
    """Take the pages that a freshly booted guest would: nearly all in one piece.

    The highest zone is taken first, each zone upwards, as `balloonlab.pages.Buddy`
    hands them out when all memory is free; of a zone whose end is not aligned to
    4 MiB the ragged end goes first, smallest block first.

    Parameters
    ----------
    memory, balloon : int or str
        Sizes of the guest and of the balloon.

    Returns
    -------
    uint64 array, shape (balloon / 4 KiB,)

    Raises
    ------
    ValueError
        See `balloonlab.layout.check_sizes`.

    Examples
    --------
    >>> idle("8GiB", "7GiB")[:3]
    array([1048576, 1048577, 1048578], dtype=uint64)
    """
    memory_pages, left = check_sizes(memory, balloon)
    pieces = []
    for zone in reversed(zones(memory_pages)):
        end = zone.end
        while end % MAX_BLOCK and left:
            start = end - (end & -end)
            pieces.append(np.arange(start, min(end, start + left), dtype=np.uint64))
            left -= pieces[-1].size
            end = start
        pieces.append(np.arange(zone.start, min(end, zone.start + left), dtype=np.uint64))
        left -= pieces[-1].size
    return np.concatenate(pieces)


def random(
    memory: Size, balloon: Size, rng: int | np.random.Generator = 0
) -> npt.NDArray[np.uint64]:
    """Take pages at random from all of the guest's RAM, in ascending order.

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
        See `balloonlab.layout.check_sizes`.
    """
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    generator = np.random.default_rng(rng)
    chosen = np.zeros(memory_pages, bool)
    chosen[generator.choice(memory_pages, balloon_pages, replace=False, shuffle=False)] = True
    pages = np.concatenate(
        [np.arange(start, end, dtype=np.uint64) for start, end in ram_ranges(memory_pages)]
    )
    return pages[chosen]


PATTERNS = {"idle": idle, "random": random}
"""By name, as `balloonlab.measure` takes them."""
