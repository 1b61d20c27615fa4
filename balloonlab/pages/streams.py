"""Page sets in a stream: guests of tens of TiB, without a list of their pages.

RAM is cut into pieces of 32 GiB, counted without the hole below 4 GiB, and each is made when its
turn comes. ``idle`` and ``every:K`` are the very pages of `balloonlab.patterns`. What is drawn
there is drawn here piece by piece, from a generator seeded with the seed and the piece's number;
a piece gets its exact share of the balloon. Within a piece ``random``, ``geometric:MEAN`` and
``huge`` are distributed as there, but shares of two pieces do not vary, runs end with a piece, and
the pages are other ones. ``aged`` is one aged guest of 2 GiB, repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..address_map import (
    HIGH_RAM_START,
    LOW_RAM_END,
    PageRange,
    check_sizes,
    pfns_at,
    ram_ranges,
)
from ..sizes import PAGE_BYTES, Size
from . import patterns
from .ageing import age
from .checks import not_one_of
from .scattered import HUGE_PAGE, check_every, check_geometric, check_huge

PIECE_PAGES = 1 << 23
"""Positions of a piece: 32 GiB."""

TILE_PAGES = 1 << 19
"""Pages of the aged guest that is repeated: 2 GiB."""

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PageStream:
    """A page set that is made piece by piece; `open_stream` makes one.

    Attributes
    ----------
    memory_pages, balloon_pages : int
        Sizes; so many pages come in all.
    seed : int
        Of what is drawn.
    piece_pages : int
        Positions in RAM that are made at a time.
    """

    memory_pages: int
    balloon_pages: int
    seed: int = 0
    piece_pages: int = PIECE_PAGES
    _kept: dict[int, Bits] = field(default_factory=dict, compare=False, repr=False)

    unit: ClassVar[int] = 1
    """Pages that are drawn together."""

    @property
    def list_runs(self) -> int | None:
        """Pieces of the list in which neighbours follow each other; None: the bitmap's runs."""
        return None

    def share(self, piece: int) -> int:
        """Return the pages that a piece gives."""
        room, wanted = self.memory_pages // self.unit, self.balloon_pages // self.unit
        ends = (min(n * self.piece_pages // self.unit, room) for n in (piece, piece + 1))
        before, after = (wanted * end // room for end in ends)
        return (after - before) * self.unit

    def _draw(self, piece: int, size: int) -> Bits:
        """Return which of the `size` positions of a piece are in the set."""
        raise NotImplementedError

    def _piece(self, piece: int) -> Bits:
        """Return a piece's positions; the last two are kept, for who crosses their border."""
        if piece not in self._kept:
            size = min(self.piece_pages, self.memory_pages - piece * self.piece_pages)
            self._kept[piece] = self._draw(piece, size)
            for old in list(self._kept)[:-2]:
                del self._kept[old]
        return self._kept[piece]

    @property
    def _n_pieces(self) -> int:
        return -(-self.memory_pages // self.piece_pages)

    def bits(self, start: int, stop: int) -> Bits:
        """Return which of the positions of RAM from `start` up to `stop` are in the set."""
        out, at = np.empty(stop - start, np.bool_), start
        while at < stop:
            number, into = divmod(at, self.piece_pages)
            part = self._piece(number)[into : into + stop - at]
            out[at - start : at - start + part.size] = part
            at += part.size
        return out

    @cached_property
    def lowest(self) -> int:
        """The lowest page; 0 of an empty set."""
        for number in range(self._n_pieces):
            if (found := self._piece(number)).any():
                return int(_pfns(number * self.piece_pages + int(found.argmax()))[0])
        return 0

    @cached_property
    def end(self) -> int:
        """One page beyond the highest; 0 of an empty set."""
        for number in reversed(range(self._n_pieces)):
            if (found := self._piece(number)).any():
                last = found.size - 1 - int(found[::-1].argmax())
                return int(_pfns(number * self.piece_pages + last)[0]) + 1
        return 0

    def windows(self, window_pages: int) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        """Yield every window with pages in it: the page of its first bit, and its bitmap.

        As `balloonlab.wire.bitmap.pack_windows`: the first one begins with the word of the lowest
        page, and a bitmap ends with its last page.
        """
        for first in range(self.lowest & -64, self.end, window_pages):
            if (words := self._window(first, window_pages)).size:
                yield first, words

    def _window(self, first: int, window_pages: int) -> npt.NDArray[np.uint64]:
        """Return the bitmap from page `first` on, up to its last page."""
        bits = np.zeros(min(window_pages, (self.end - first + 63) & -64), np.bool_)
        below = 0
        for start, stop in ram_ranges(self.memory_pages):
            low, high = max(start, first), min(stop, first + bits.size)
            if low < high:
                at = below - start
                bits[low - first : high - first] = self.bits(low + at, high + at)
            below += stop - start
        words = np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64, copy=False)
        used = np.flatnonzero(words)
        return words[: int(used[-1]) + 1] if used.size else words[:0]

    def lists(self, newest_first: bool = False) -> Iterator[npt.NDArray[np.uint64]]:
        """Yield the pages in the order the guest allocates them, or the other way round."""
        order = range(self._n_pieces)
        for number in reversed(order) if newest_first else order:
            pages = self._list(number)
            yield pages[::-1] if newest_first else pages

    def _list(self, piece: int) -> npt.NDArray[np.uint64]:
        return _pfns(np.flatnonzero(self._piece(piece)) + piece * self.piece_pages)


class _Idle(PageStream):
    @cached_property
    def _ranges(self) -> list[PageRange]:
        """What the guest gives, in list order, as positions of RAM."""
        sizes = self.memory_pages * PAGE_BYTES, self.balloon_pages * PAGE_BYTES
        hole = HIGH_RAM_START - LOW_RAM_END
        found = (part for part in patterns.idle_ranges(*sizes) if part.end > part.start)
        return [
            PageRange(*(n - hole * (part.start >= HIGH_RAM_START) for n in part)) for part in found
        ]

    @property
    def list_runs(self) -> int:
        return len(self._ranges)

    def _draw(self, piece: int, size: int) -> Bits:
        bits, first = np.zeros(size, np.bool_), piece * self.piece_pages
        for start, stop in self._ranges:
            bits[max(0, start - first) : max(0, stop - first)] = True
        return bits

    def windows(self, window_pages: int) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        full = np.full(window_pages // 64, np.uint64((1 << 64) - 1))
        longest = max(self._ranges, key=lambda part: part.end - part.start, default=(0, 1))
        first, end = (int(n) for n in _pfns(np.array(longest) - (0, 1)))
        # Windows inside the longest range are alike.
        for start in range(self.lowest & -64, self.end, window_pages):
            if first <= start and start + window_pages <= end:
                yield start, full
            elif (made := self._window(start, window_pages)).size:
                yield start, made

    def lists(self, newest_first: bool = False) -> Iterator[npt.NDArray[np.uint64]]:
        for part in reversed(self._ranges) if newest_first else self._ranges:
            starts = range(part.start, part.end, self.piece_pages)
            for start in reversed(starts) if newest_first else starts:
                pages = _pfns(np.arange(start, min(start + self.piece_pages, part.end)))
                yield pages[::-1] if newest_first else pages


class _Random(PageStream):
    def _draw(self, piece: int, size: int) -> Bits:
        return _subset(size, self.share(piece), np.random.default_rng((self.seed, piece)))


class _Huge(PageStream):
    unit = HUGE_PAGE

    def _draw(self, piece: int, size: int) -> Bits:
        generator = np.random.default_rng((self.seed, piece))
        blocks = _subset(size // HUGE_PAGE, self.share(piece) // HUGE_PAGE, generator)
        bits = np.zeros(size, np.bool_)
        bits[: blocks.size * HUGE_PAGE] = np.repeat(blocks, HUGE_PAGE)
        return bits


@dataclass(frozen=True)
class _Every(PageStream):
    k: int = 1

    def _draw(self, piece: int, size: int) -> Bits:
        first, bits = piece * self.piece_pages, np.zeros(size, np.bool_)
        bits[-first % self.k : max(0, self.balloon_pages * self.k - first) : self.k] = True
        return bits


@dataclass(frozen=True)
class _Geometric(PageStream):
    mean_run: float = 1.0

    def _draw(self, piece: int, size: int) -> Bits:
        n = self.share(piece)
        if n in (0, size):
            return np.full(size, n > 0, np.bool_)
        generator = np.random.default_rng((self.seed, piece))
        n_runs = min(max(1, round(n / self.mean_run)), size - n + 1)
        lengths = np.empty(2 * n_runs + 1, np.int64)
        lengths[1::2] = _composition(n, n_runs, generator)
        lengths[::2] = _composition(size - n + 2, n_runs + 1, generator)
        lengths[0] -= 1  # the outer two gaps may be empty
        lengths[-1] -= 1
        return np.repeat(np.arange(lengths.size) % 2 == 1, lengths)


class _Aged(PageStream):
    unit = TILE_PAGES  # each gives the same pages

    def share(self, piece: int) -> int:
        tiles = min(self.piece_pages, self.memory_pages - piece * self.piece_pages) // TILE_PAGES
        return tiles * self._of_tile.size

    @property
    def list_runs(self) -> int:
        return self.memory_pages // TILE_PAGES * count_list_runs(self._of_tile)

    @cached_property
    def _of_tile(self) -> npt.NDArray[np.uint64]:
        n = self.balloon_pages * TILE_PAGES // self.memory_pages
        return _aged_tile(self.seed)[:n]

    def _draw(self, piece: int, size: int) -> Bits:
        tile = np.zeros(TILE_PAGES, np.bool_)
        tile[self._of_tile] = True
        return np.tile(tile, size // TILE_PAGES)

    def _list(self, piece: int) -> npt.NDArray[np.uint64]:
        first = piece * self.piece_pages
        starts = np.arange(first, min(first + self.piece_pages, self.memory_pages), TILE_PAGES)
        return _pfns(np.add.outer(starts, self._of_tile.astype(np.int64)).ravel())


def count_list_runs(pages: npt.NDArray[np.uint64]) -> int:
    """Count the pieces of a list in which each page follows the one before it, up or down."""
    steps = np.diff(pages.astype(np.int64))
    return int(np.count_nonzero(np.abs(steps) != 1)) + (pages.size > 0)


@lru_cache(maxsize=2)
def _aged_tile(seed: int) -> npt.NDArray[np.uint64]:
    buddy = age(TILE_PAGES * PAGE_BYTES, seed).buddy
    return buddy.take(int(buddy.free_blocks() @ (1 << np.arange(buddy.free_blocks().size))))


def open_stream(pattern: str, memory: Size, balloon: Size, seed: int = 0) -> PageStream:
    """Return the page set of a pattern as a stream.

    Parameters
    ----------
    pattern : str
        As in `balloonlab.patterns.make`, but no trace: those are listed.
    memory, balloon : int or str
        Sizes of the guest and of the balloon, without a limit. With ``aged`` both are multiples of
        2 GiB and its share of the balloon: whole aged guests of 2 GiB.
    seed : int
        Of what is drawn; the module says how the pages differ from those of a list.

    Returns
    -------
    PageStream

    Raises
    ------
    ValueError
        As `balloonlab.patterns.make`.

    Examples
    --------
    >>> stream = open_stream("every:3", "64TiB", "16TiB")
    >>> next(stream.windows(1 << 23))[1][0] == 0x9249249249249249
    np.True_
    """
    match = patterns.WITH_PARAMETER.fullmatch(pattern)
    if match and match["k"]:
        sizes = check_every(memory, balloon, int(match["k"]))
        return _Every(*sizes, seed, k=int(match["k"]))
    if match:
        sizes = check_geometric(memory, balloon, float(match["mean"]))
        return _Geometric(*sizes, seed, mean_run=float(match["mean"]))
    if pattern == "huge":
        return _Huge(*check_huge(memory, balloon), seed)
    if pattern == "aged":
        return _Aged(*_check_tiles(memory, balloon, seed), seed)
    if pattern in ("idle", "random"):
        return {"idle": _Idle, "random": _Random}[pattern](*check_sizes(memory, balloon), seed)
    raise not_one_of("pattern", pattern, [name for name in patterns.names() if "trace" not in name])


def _check_tiles(memory: Size, balloon: Size, seed: int) -> tuple[int, int]:
    memory_pages, balloon_pages = patterns.check_aged(memory, balloon)
    if memory_pages % TILE_PAGES or balloon_pages % (memory_pages // TILE_PAGES):
        raise ValueError(
            "memory must be a multiple of 2 GiB, and balloon the same number of pages of each, "
            f"with pattern aged in a stream: its guest of 2 GiB is repeated; got "
            f"memory={memory!r}, balloon={balloon!r}"
        )
    if balloon_pages // (memory_pages // TILE_PAGES) > (room := _aged_tile(seed).size):
        raise ValueError(
            f"balloon must be at most {room} pages of each 2 GiB with pattern aged, got {balloon!r}"
        )
    return memory_pages, balloon_pages


def _pfns(positions: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    return pfns_at(np.atleast_1d(np.asarray(positions)).astype(np.uint64))


def _subset(size: int, n: int, rng: np.random.Generator) -> Bits:
    """Draw `n` of `size` positions, every set equally likely.

    Each is drawn by itself first; which ones then come or go to make it `n` is drawn, too.
    """
    chosen = rng.random(size, np.float32) < np.float32(n / max(size, 1))
    surplus = int(np.count_nonzero(chosen)) - n
    if surplus:
        among = np.flatnonzero(chosen if surplus > 0 else ~chosen)
        chosen[rng.choice(among, abs(surplus), replace=False, shuffle=False)] = surplus < 0
    return chosen


def _composition(total: int, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Cut `total` into `n` parts of at least 1, every way equally likely."""
    cuts = 1 + np.flatnonzero(_subset(total - 1, n - 1, rng))
    return np.diff(cuts, prepend=0, append=total)
