"""What is in the balloon, as the driver keeps it: single pages, or blocks of them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..kernels import chunks, driver
from ..kernels.bitmap_v4 import PAGE_SHIFT_4K, PFN_BITS
from ..kernels.buddy import N_ORDERS
from ..pages import Buddy

Pages = npt.NDArray[np.uint64]


class Step(NamedTuple):
    """An operation of the driver, and what it means for the books."""

    operate: Callable[..., int]  # of encoder, queues, counters and log; counts what it dealt with
    pages: Callable[[int], Pages]  # those of so many: pages, blocks, or halves of a migration
    settle: Callable[[int], None] = lambda n: None  # enters so many in the books


class Balloon(Protocol):
    """The books: `n_pages` are in the balloon, `pages` those, oldest first (a copy)."""

    @property
    def n_pages(self) -> int: ...  # noqa: D102

    @property
    def pages(self) -> Pages: ...  # noqa: D102

    def inflating(self, n_pages: int) -> Step:
        """Return the inflation by so many pages, not 0."""

    def deflating(self, n_pages: int) -> Step:
        """Return the deflation by the newest pages, not 0."""

    def migrating(self, pfn: int) -> Step:
        """Return the migration of a page; a ValueError where it is not in the balloon."""


class SinglePages:
    """A `Balloon` of single pages, in a list with room for all pages of the guest."""

    def __init__(self, buddy: Buddy) -> None:
        self._buddy, self.n_pages = buddy, 0
        # Written once, so that timed code meets no page fault.
        self._list = np.full(buddy.memory_pages, 1, np.uint64)

    @property
    def pages(self) -> Pages:
        """The balloon's pages; see `Balloon`."""
        return self._list[: self.n_pages].copy()

    def inflating(self, n_pages: int) -> Step:
        """Return an inflation; see `Balloon`."""
        held = self.n_pages
        pages = self._list[: held + n_pages]
        operate = partial(driver.inflate, self._buddy.blocks, pages, held)
        return Step(operate, lambda n: pages[held : held + n].copy(), self._count_in)

    def deflating(self, n_pages: int) -> Step:
        """Return a deflation; see `Balloon`."""
        pages, leaving = self._list[: self.n_pages], np.full(n_pages, 1, np.uint64)
        operate = partial(driver.deflate, self._buddy.blocks, pages, leaving)
        return Step(operate, lambda n: leaving[:n], lambda n: self._count_in(-n))

    def migrating(self, pfn: int) -> Step:
        """Return a migration; see `Balloon`."""
        held = self._list[: self.n_pages]
        at = np.flatnonzero(held == operator.index(pfn))
        if at.size == 0:
            raise _not_inside(pfn)
        pages = np.array([0, pfn], np.uint64)

        def settle(steps: int) -> None:
            if steps == 2:
                held[at[0] : -1] = held[at[0] + 1 :]
                self._count_in(-1)
            if steps > 0:
                self._list[self.n_pages] = pages[0]
                self._count_in(1)

        operate = partial(driver.migrate, self._buddy.blocks, pages[1:], pages[:1])
        return Step(operate, lambda n: pages[:n], settle)

    def _count_in(self, n_pages: int) -> None:
        """Account for pages that entered the balloon (left it, where negative)."""
        self.n_pages += n_pages


class Chunks:
    """A `Balloon` of blocks: a list of heads as records of ``bitmap-v4`` have them.

    Its list grows with the blocks, not with the guest. A block is split where a target cuts it, and
    around a page that migrates: its upper part leaves, its lower part stays.
    """

    def __init__(self, buddy: Buddy) -> None:
        self._buddy, self._held = buddy, 0
        self._list = np.zeros(0, np.uint64)

    @property
    def _heads(self) -> Pages:
        return self._list[: self._held]

    @property
    def n_pages(self) -> int:
        """How many pages there are; see `Balloon`."""
        return int(_sizes(self._heads).sum())

    @property
    def pages(self) -> Pages:
        """The balloon's pages, those of a block ascending; see `Balloon`."""
        return _pages_of(self._heads)

    def inflating(self, n_pages: int) -> Step:
        """Return an inflation; see `Balloon`."""
        # No more than there are, each whole, and the pieces of the last ones.
        most = min(n_pages, int(self._buddy.free_blocks().sum()) + N_ORDERS)
        heads, held = self._with_room(most), self._held
        operate = partial(chunks.inflate_chunks, self._buddy.blocks, heads, held, n_pages)
        return Step(operate, lambda n: _pages_of(heads[held : held + n]), self._count_in)

    def deflating(self, n_pages: int) -> Step:
        """Return a deflation; see `Balloon`."""
        ends = np.cumsum(_sizes(self._heads)[::-1])
        n = int(np.searchsorted(ends, n_pages)) + 1
        if ends[n - 1] > n_pages:
            cut = self._held - n
            start, end = _span(self._heads[cut])
            middle = start + int(ends[n - 1]) - n_pages
            upper = _heads_of(middle, end)
            self._replace(cut, _heads_of(start, middle) + upper)
            n += len(upper) - 1
        heads, firsts = self._heads, np.full(n, 1, np.uint64)
        operate = partial(chunks.deflate_chunks, self._buddy.blocks, heads, firsts)
        return Step(
            operate,
            lambda n: _pages_of(heads[heads.size - n :])[::-1].copy(),
            lambda n: self._count_in(-n),
        )

    def migrating(self, pfn: int) -> Step:
        """Return a migration; see `Balloon`."""
        page, starts = operator.index(pfn), _starts(self._heads).astype(np.int64)
        inside = (starts <= page) & (page < starts + _sizes(self._heads))
        if not inside.any():
            raise _not_inside(pfn)
        at = int(inside.argmax())
        start, end = _span(self._heads[at])
        lower = _heads_of(start, page)
        self._replace(at, lower + _heads_of(page, page + 1) + _heads_of(page + 1, end))
        at += len(lower)
        pages = np.array([0, page], np.uint64)

        def settle(steps: int) -> None:
            if steps == 2:
                self._replace(at, [])
            if steps > 0:
                self._replace(self._held, _heads_of(int(pages[0]), int(pages[0]) + 1), 0)

        operate = partial(driver.migrate, self._buddy.blocks, pages[1:], pages[:1])
        return Step(operate, lambda n: pages[:n], settle)

    def _with_room(self, n: int) -> Pages:
        """Return the list with room for so many more blocks, written once."""
        if self._held + n > self._list.size:
            grown = np.full(self._held + n, 1, np.uint64)
            grown[: self._held] = self._heads
            self._list = grown
        return self._list[: self._held + n]

    def _replace(self, at: int, heads: list[int], n: int = 1) -> None:
        """Put other blocks in the place of `n`."""
        parts = self._heads[:at], np.array(heads, np.uint64), self._heads[at + n :]
        self._list = np.concatenate(parts)
        self._held = self._list.size

    def _count_in(self, n: int) -> None:
        """Account for blocks that entered the balloon (left it, where negative)."""
        self._held += n


def _not_inside(pfn: int) -> ValueError:
    return ValueError(f"pfn must be a page in the balloon, got {pfn}")


def _starts(heads: Pages) -> Pages:
    return heads & np.uint64((1 << PFN_BITS) - 1)


def _sizes(heads: Pages) -> npt.NDArray[np.int64]:
    return np.int64(1) << ((heads >> np.uint64(PFN_BITS)).astype(np.int64) - PAGE_SHIFT_4K)


def _span(head: np.uint64) -> tuple[int, int]:
    """Return the first page of a block, and the one behind its last."""
    one = np.array([head])
    start = int(_starts(one)[0])
    return start, start + int(_sizes(one)[0])


def _pages_of(heads: Pages) -> Pages:
    """Return the pages of blocks, block by block, ascending in each."""
    sizes = _sizes(heads)
    offsets = _starts(heads).astype(np.int64) - (np.cumsum(sizes) - sizes)
    return (np.repeat(offsets, sizes) + np.arange(sizes.sum())).astype(np.uint64)


def _heads_of(start: int, end: int) -> list[int]:
    """Return the heads of the aligned blocks that a part of a block is, ascending."""
    heads = []
    while start < end:
        order = (end - start).bit_length() - 1
        if start:
            order = min(order, (start & -start).bit_length() - 1)
        heads.append(start | (order + PAGE_SHIFT_4K) << PFN_BITS)
        start += 1 << order
    return heads
