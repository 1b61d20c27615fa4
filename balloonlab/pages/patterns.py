"""Page sets by their spelling: the pages that a guest would hand to its balloon.

Synthetic ones, and those of real guests (`balloonlab.traces`). Every pattern returns
page numbers of a PC guest's RAM (`balloonlab.address_map`), as a ``uint64`` array in list order,
exactly as many as the balloon has. The error of a pattern without a set of that size names those
it has.

=================== ===================================== =================
spelling            pages                                 list order
=================== ===================================== =================
``idle``            nearly all in one piece               the allocator's
``random``          each with the same chance             ascending
``huge``            random aligned blocks of 512          ascending
``aged``            what a fragmented guest has free      the allocator's
``every:K``         every K-th                            ascending
``geometric:MEAN``  random runs of a given mean length    ascending
``trace:NAME``      what a Linux guest sent its device    as it was sent
=================== ===================================== =================

A trace in a folder of one's own is ``trace:FOLDER/NAME``. `make` takes the spelling, `ordered` puts
any page set into another list order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..address_map import PageRange, check_sizes, zones
from ..sizes import GIB, PAGE_BYTES, Size
from . import traces
from .ageing import age, check_workload, held_pages
from .checks import Seed, as_pfns, check_room, not_one_of
from .scattered import every, geometric, huge, random, too_large

__all__ = [
    "ORDERS", "PATTERNS", "aged", "default_memory", "default_pages", "every", "geometric", "huge",
    "idle", "idle_ranges", "make", "names", "ordered", "random",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__


MAX_BLOCK = 1024
"""Pages in the allocator's largest block (order 10, 4 MiB)."""

HELD = 0.1
"""Share of RAM that an aged guest holds by default."""

ORDERS = ("as is", "ascending", "descending", "shuffled")
"""List orders, as `ordered` takes them."""


def idle(memory: Size, balloon: Size) -> npt.NDArray[np.uint64]:
    """Return the pages that a freshly booted guest would give: nearly all in one piece.

    The highest zone is taken first, each zone upwards, as `balloonlab.pages.Buddy`
    hands them out when all memory is free; of a zone whose end is not aligned to
    4 MiB the ragged end goes first, smallest block first. Sizes, result and errors as in `random`.

    Examples
    --------
    >>> idle("8GiB", "7GiB")[:3]
    array([1048576, 1048577, 1048578], dtype=uint64)
    """
    pieces = idle_ranges(memory, balloon)
    check_room(sum(end - start for start, end in pieces))
    return np.concatenate([np.arange(*piece, dtype=np.uint64) for piece in pieces])


def idle_ranges(memory: Size, balloon: Size) -> list[PageRange]:
    """Return the pages of `idle` as ranges, in list order, for guests of any size."""
    memory_pages, left = check_sizes(memory, balloon)
    pieces = []
    for zone in reversed(zones(memory_pages)):
        end = zone.end
        while end % MAX_BLOCK and left:
            start = end - (end & -end)
            pieces.append(PageRange(start, min(end, start + left)))
            left -= pieces[-1].end - start
            end = start
        pieces.append(PageRange(zone.start, min(end, zone.start + left)))
        left -= pieces[-1].end - zone.start
    return pieces


def aged(
    memory: Size,
    balloon: Size,
    rng: Seed = 0,
    *,
    held: float = HELD,
    unmovable: float = 0.01,
    turnover: int = 4,
) -> npt.NDArray[np.uint64]:
    """Return the pages that a guest with fragmented memory would give: a ``model``, see `age`.

    The guest does not depend on the balloon: a smaller one gets the first pages of a
    larger one. Sizes and result as in `random`, all else and errors as in `balloonlab.pages.age`;
    a balloon larger than what the guest does not hold raises ``ValueError``, too.
    """
    check_workload(held, unmovable, turnover)
    _, balloon_pages = check_aged(memory, balloon, held)
    guest = age(memory, rng, held=held, unmovable=unmovable, turnover=turnover)
    return guest.buddy.take(balloon_pages)


def check_aged(memory: Size, balloon: Size, held: float = HELD) -> tuple[int, int]:
    """Return both sizes in pages after a check that an aged guest has so much free."""
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    room = memory_pages - held_pages(memory_pages, held)
    if balloon_pages > room:
        fits = math.floor(10_000 * (1 - balloon_pages / memory_pages)) / 10_000
        other = f"held={fits:g} instead of {held:g}"
        raise too_large("aged", memory, balloon, room, other)
    return memory_pages, balloon_pages


def ordered(pfns: npt.ArrayLike, order: str, rng: Seed = 0) -> npt.NDArray[np.uint64]:
    """Return a page set in another list order.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
    order : {"as is", "ascending", "descending", "shuffled"}
        ``as is`` keeps the pattern's own order, and copies nothing.
    rng : int or numpy.random.Generator
        Seed or generator of ``shuffled``; the same seed gives the same order.

    Returns
    -------
    uint64 array, shape (n,)

    Raises
    ------
    TypeError, ValueError
        An unknown order, or no page numbers.

    Examples
    --------
    >>> ordered([5, 3, 9], "descending")
    array([9, 5, 3], dtype=uint64)
    """
    pages = as_pfns(pfns)
    if order == "as is":
        return pages
    if order == "ascending":
        return np.sort(pages)
    if order == "descending":
        return np.sort(pages)[::-1].copy()
    if order == "shuffled":
        return np.random.default_rng(rng).permutation(pages)
    raise not_one_of("order", order, ORDERS)


PATTERNS: dict[str, Callable[..., npt.NDArray[np.uint64]]] = {
    "idle": idle, "random": random, "huge": huge, "aged": aged,
}  # fmt: skip
"""Patterns without a parameter of their own, by spelling."""

WITH_PARAMETER = re.compile(r"every:(?P<k>[1-9]\d*)|geometric:(?P<mean>[1-9]\d*(\.\d*[1-9])?)")


def names() -> list[str]:
    """Return the spellings of patterns; capitals stand for a number or a name."""
    return [*PATTERNS, "every:K", "geometric:MEAN", f"{traces.PREFIX}NAME"]


def default_memory(name: str) -> int:
    """Return the memory in bytes where none is given: the recorded guest's of a trace, or 8 GiB."""
    if isinstance(name, str) and name.startswith(traces.PREFIX):
        return traces.sizes(name.removeprefix(traces.PREFIX))[0] * PAGE_BYTES
    if name not in PATTERNS:
        make(name, PAGE_BYTES, 0)  # an empty set: only the spelling is checked
    return 8 * GIB


def default_pages(name: str, memory_pages: int) -> int:
    """Return the pages of the balloon where none is given: the whole trace, or 7/8 of memory."""
    if name.startswith(traces.PREFIX):
        return traces.sizes(name.removeprefix(traces.PREFIX))[1]
    return memory_pages // 8 * 7


def make(name: str, memory: Size, balloon: Size, rng: Seed = 0) -> npt.NDArray[np.uint64]:
    """Return the page set of a pattern, given by its spelling.

    Every pattern has one spelling, so a column of them can be grouped by.

    Parameters
    ----------
    name : str
        As in `names`, a number in the place of the capitals: ``every:8``, ``geometric:1.5``; or
        the name of a trace (`balloonlab.traces.names`), whose first pages are taken:
        ``trace:NAME``, or ``trace:FOLDER/NAME`` in a folder of one's own.
    memory, balloon, rng
        As in `random`, with the same errors.

    Returns
    -------
    uint64 array, shape (balloon / 4 KiB,)

    Raises
    ------
    ValueError
        No such spelling, or the pattern has no set of that size.
    FileNotFoundError
        There is no such folder of traces.

    Examples
    --------
    >>> make("every:8", "1MiB", "16KiB")
    array([ 0,  8, 16, 24], dtype=uint64)
    """
    if isinstance(name, str):
        if name == "idle":
            return idle(memory, balloon)
        if name in PATTERNS:
            return PATTERNS[name](memory, balloon, rng)
        if name.startswith(traces.PREFIX):
            return traces.first_pages(name.removeprefix(traces.PREFIX), memory, balloon)
        match = WITH_PARAMETER.fullmatch(name)
        if match and match["k"]:
            return every(memory, balloon, int(match["k"]))
        if match:
            return geometric(memory, balloon, float(match["mean"]), rng)
    rule = (
        "K a whole number and MEAN a number, both at least 1 and without needless zeros (as in "
        "every:8, geometric:1.5), NAME one of balloonlab.traces.names() or FOLDER/NAME"
    )
    raise not_one_of("pattern", name, names(), rule)
