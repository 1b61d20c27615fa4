"""A guest that has worked for a while: fragmentation that emerges from allocations.

A ``model`` of a guest, not a trace of one. Tasks start, take blocks of mixed
orders, and end; short-lived blocks come and go between them; now and then a page
is taken for good. What is left free at the end is in pieces, and an inflation takes
those pieces in the allocator's own order. Linux also groups pages by mobility and compacts
memory, this allocator does neither: a Linux guest at the same work fragments less.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..address_map import check_sizes
from ..kernels import workload as kernels
from ..kernels.buddy import NONE
from ..sizes import Size
from .buddy import Buddy
from .checks import Seed

LOAD = 0.95
"""Share of RAM that is asked for while the guest works."""

ORDER_SHARES = np.array([0.60, 0.02, 0.06, 0.06, 0.03, 0.03, 0.0, 0.0, 0.0, 0.20, 0.0])
"""Shares of the pages asked for, by order: single pages, page cache, huge pages."""

_RATES = ORDER_SHARES / (1 << np.arange(ORDER_SHARES.size))
_CHANCES, _MEAN_PAGES = _RATES / _RATES.sum(), sum(ORDER_SHARES) / _RATES.sum()
"""The chance of each order in one allocation, and the mean block in pages."""

N_TASKS = 64
TOGETHER = 4
"""Tasks that end, and then others that grow, at the same time."""

TURN = 64
"""Blocks that a growing task takes in a row; Linux's per-CPU lists are refilled by 63 pages."""

SHORT_LIVED = 1 / 64
"""Share of the slots whose blocks are short-lived."""

SHORT_LIVED_RATE = 0.25
"""Short-lived allocations for each one of a task."""


class AgedGuest(NamedTuple):
    """The result of `age`.

    Attributes
    ----------
    buddy : Buddy
        The allocator in its aged state.
    held : numpy.ndarray of int64, shape (n, 2)
        First page and order of every block that the guest holds.
    """

    buddy: Buddy
    held: npt.NDArray[np.int64]


class _Slots(NamedTuple):
    """Places for one block each: those of all tasks, the short-lived, the unmovable."""

    per_task: int
    first_short: int
    first_unmovable: int
    end: int

    def of_tasks(self, tasks: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the slots of some tasks; one more axis than `tasks`."""
        within = np.arange(self.per_task, dtype=np.int32)
        return np.add.outer(tasks * np.int32(self.per_task), within)


def age(
    memory: Size,
    rng: Seed = 0,
    *,
    held: float = 0.1,
    unmovable: float = 0.01,
    turnover: int = 4,
) -> AgedGuest:
    """Let a guest work until its memory is fragmented, then let it go idle.

    Parameters
    ----------
    memory : int or str
        Size of the guest.
    rng : int or numpy.random.Generator
        Seed or generator; the same seed gives the same guest.
    held : float
        Share of RAM that the guest holds at the end, at most; less than one block
        below it, unless the load never came that high.
    unmovable : float
        Share of RAM in single pages that are taken at random times and never
        released; part of `held`.
    turnover : int
        How often every task is replaced after memory was filled for the first time.

    Raises
    ------
    ValueError
        A share is not between 0 and 1, `unmovable` exceeds `held`, or `turnover` is no
        whole number of at least 0.

    Examples
    --------
    >>> guest = age("16MiB", turnover=1)
    >>> int((1 << guest.held[:, 1]).sum()) <= 0.1 * 4096
    True

    Notes
    -----
    The model. 64 tasks ask for 95 % of RAM between them, less what is unmovable.
    Orders are drawn by `ORDER_SHARES`; an order that is not to be had is replaced by
    the next smaller one. In each turnover all tasks are replaced in random order, four
    at a time: four end, then four grow by turns of 64 blocks, so that the memory of
    one lies between that of others and a task lives for one turnover on average. For
    every four blocks of tasks a short-lived one is taken, which lives for a 16th of a
    turnover on average. At the end the short-lived blocks go, then task after task in
    random order until no more than `held` is left.
    """
    memory_pages, _ = check_sizes(memory, 0)
    check_workload(held, unmovable, turnover)
    generator = np.random.default_rng(rng)
    slots = _make_slots(memory_pages, unmovable)
    buddy = Buddy.idle(memory_pages)
    blocks, scratch = np.full(slots.end, NONE, np.int64), np.zeros(1, np.uint64)
    unmovable_slots = np.arange(slots.first_unmovable, slots.end, dtype=np.int32)
    for taken_for_good in np.array_split(unmovable_slots, turnover + 1):
        events = _one_turnover(slots, taken_for_good, generator)
        kernels.work(buddy.blocks, blocks, *events, scratch)
    released = _go_idle(slots, blocks, held_pages(memory_pages, held), generator)
    release = np.full(released.size, kernels.RELEASE, np.int8)
    kernels.work(buddy.blocks, blocks, released, release, scratch)
    left = blocks[blocks != NONE]
    pairs = np.stack([left >> kernels.ORDER_BITS, left & kernels.ORDER_MASK], axis=1)
    return AgedGuest(buddy, pairs)


def check_workload(held: float, unmovable: float, turnover: int) -> None:
    """Check the arguments of `age`; raises its errors."""
    for name, share in (("held", held), ("unmovable", unmovable)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be a share of RAM from 0 to below 1, got {share!r}")
    if unmovable > held:
        raise ValueError(
            f"unmovable must not exceed held, of which it is a part: "
            f"got unmovable={unmovable!r}, held={held!r}"
        )
    if not isinstance(turnover, int | np.integer) or turnover < 0:
        raise ValueError(f"turnover must be a whole number of at least 0, got {turnover!r}")


def held_pages(memory_pages: int, held: float) -> int:
    """Return the pages that an aged guest holds at most."""
    return int(memory_pages * held)


def _make_slots(memory_pages: int, unmovable: float) -> _Slots:
    """Make as many slots as load memory to `LOAD`."""
    n = (LOAD - unmovable) * memory_pages / _MEAN_PAGES
    per_task = max(1, int(n * (1 - SHORT_LIVED) / N_TASKS))
    first_short = N_TASKS * per_task
    first_unmovable = first_short + max(1, int(n * SHORT_LIVED))
    end = first_unmovable + int(unmovable * memory_pages)
    return _Slots(per_task, first_short, first_unmovable, end)


def _one_turnover(
    slots: _Slots, unmovable: npt.NDArray[np.int32], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Make the events in which every task is replaced once: slots and orders."""
    groups = rng.permutation(N_TASKS).astype(np.int32).reshape(-1, TOGETHER)
    ending = slots.of_tasks(groups).reshape(len(groups), -1)
    turns = np.arange(slots.per_task) // TURN
    growing = ending[:, np.argsort(np.tile(turns, TOGETHER), kind="stable")]
    n_short = int(SHORT_LIVED_RATE * ending.size)
    orders = rng.choice(_CHANCES.size, ending.size + n_short, p=_CHANCES).astype(np.int8)
    releases = np.full(ending.shape, kernels.RELEASE, np.int8)
    task_events = np.stack([ending, growing], axis=1).ravel()
    task_orders = np.stack([releases, orders[n_short:].reshape(ending.shape)], axis=1).ravel()
    short = rng.integers(slots.first_short, slots.first_unmovable, n_short, dtype=np.int32)
    between = rng.integers(0, task_events.size, n_short + unmovable.size)
    others = np.concatenate([short, unmovable])
    their_orders = np.concatenate([orders[:n_short], np.zeros_like(unmovable)])
    return np.insert(task_events, between, others), np.insert(task_orders, between, their_orders)


def _go_idle(
    slots: _Slots, blocks: npt.NDArray[np.int64], limit: int, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Return the slots to be released until the guest holds no more than `limit` pages."""
    tasks = slots.of_tasks(rng.permutation(N_TASKS).astype(np.int32)).ravel()
    short = np.arange(slots.first_short, slots.first_unmovable, dtype=np.int32)
    leaving = np.concatenate([short, tasks])
    n_pages = np.where(blocks != NONE, 1 << (blocks & kernels.ORDER_MASK), 0)
    surplus = n_pages.sum() - limit
    n_leaving = np.searchsorted(np.cumsum(n_pages[leaving]), surplus) + 1 if surplus > 0 else 0
    return leaving[:n_leaving]
