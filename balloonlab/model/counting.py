"""Counts of an operation, exact and without its memory: kicks, bytes, records, look-ups, calls.

Pages come from a list or a stream, a window of 32 GiB at a time; messages come out of the driver's
own kernels, and a device without memory takes them (`balloonlab.kernels.counting`).
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import wire
from ..address_map import HIGH_RAM_START, LOW_RAM_END
from ..host import DISCARDS, Policy
from ..host.backing import ANONYMOUS
from ..host.device import EXTENTS, make_state
from ..kernels import counting as kernels
from ..kernels import crew
from ..kernels import translate as translation
from ..kernels.bitmap import count_bits, count_runs
from ..kernels.bitmap_v4 import MAX_BITMAPS, WINDOW_WORDS
from ..kernels.discard import Discard, Vectors
from ..kernels.formats import Encoding
from ..kernels.pfn import write_pfns
from ..measurement.case import CUSTOM, Case, size_literal
from ..measurement.on_lab import FLOOR
from ..measurement.options import Pattern
from ..measurement.setups import make_case
from ..pages import patterns, traces
from ..pages.streams import PIECE_PAGES, count_list_runs, open_stream
from ..sizes import HUGE_BYTES, PAGE_BYTES
from ..wire.bitmap import pack_windows, split, split_windows
from ..wire.format import Format

COUNTS = ("n_pages", "n_kicks", "wire_bytes", "n_records", "n_translations", "n_discards")
"""What an operation takes besides time; columns of the tidy frame."""

UNITS = (*COUNTS, "n_extents", "n_partial_pages", "n_runs")
"""What costs are per unit of: besides, the extents of memory that calls are made over, their
pages that lie in a huge page of which other pages stay, and the pieces of the guest's list in which
pages follow each other."""

MAX_PFN = 1 << 36
"""Pages up to here, 256 TiB: one bit each is kept to find repeated ones."""

WINDOW_PAGES = 64 * WINDOW_WORDS

Words = npt.NDArray[np.uint64]


class Host:
    """A device that has no memory, and counts what it would do with messages.

    It keeps a bit for each page below `top`; those are of a mapping that takes memory where it is
    written, and gives it back (`forget`).
    """

    def __init__(
        self, wire_format: Format, policy: Policy, top: int, page_bytes: int = PAGE_BYTES
    ) -> None:
        if top > MAX_PFN:
            raise ValueError(f"pages must be below 2**36 to be counted, got {top - 1}")
        # Memory as `balloonlab.host.GuestRam` maps it: across the hole RAM is in one piece. Pages
        # in the hole count as RAM here, behind all other, so that any page can be sent.
        end = max(top, HIGH_RAM_START)
        low, high = (0, LOW_RAM_END, 0, 1), (HIGH_RAM_START, end - HIGH_RAM_START, LOW_RAM_END, 1)
        n_hole = HIGH_RAM_START - LOW_RAM_END
        slots = np.array([low, high, (LOW_RAM_END, n_hole, end - n_hole, 1)], np.int64)
        self._memory = translation.Memory(np.zeros(0, np.uint8), 0, slots)
        n_bytes = -(-(end + n_hole) // 512 + 64) * 64
        self._mapping = mmap.mmap(-1, n_bytes, flags=ANONYMOUS)
        balloon = np.frombuffer(self._mapping, np.uint64)
        state = make_state(wire_format, Policy(), "inflate", balloon)
        rows = EXTENTS if page_bytes > PAGE_BYTES or "sorted" in policy.discard else 0
        self.device = state._replace(
            discard=int(DISCARDS[policy.discard]),
            verb=state.verb._replace(page_bytes=page_bytes),
            vectors=Vectors(
                -1, np.zeros((policy.vectors, 2), np.int64), *np.zeros((2, rows, 2), np.int64)
            ),
            crew=_crew(policy.threads),
            collect=policy.collect,
        )
        self._partial = np.zeros(1, np.int64)
        self.is_settled = policy.collect == 1
        """Whether nothing is left of a message when it was counted."""

    def take(
        self, messages: bytes | npt.NDArray[np.uint8], message_bytes: int, forgets: bool = False
    ) -> None:
        """Count what messages make it do: one after the other, each of so many bytes.

        With `forgets` no page may come twice: what one message names may be more than fits memory.
        """
        data = np.frombuffer(messages, np.uint8)
        kernels.count_messages(
            self._memory, self.device, data, message_bytes, self._partial, forgets
        )

    def calls(self, ranges: npt.NDArray[np.void]) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the calls for a message's ranges: first page of the mapping, and pages."""
        state = self.device.state
        state[:] = 0
        while state[0]["range"] < ranges.size:
            n = translation.translate(
                self._memory, self.device, ranges.view(np.int64).reshape(-1, 2)
            )
            yield self.device.extents[:n] // PAGE_BYTES

    def pfns(self, pages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the page numbers of pages of the mapping."""
        slots = self._memory.slots
        row = np.searchsorted(slots[:, translation.FIRST_PAGE], pages, side="right") - 1
        return pages + slots[row, translation.START] - slots[row, translation.FIRST_PAGE]

    def forget(self, first: int, end: int) -> None:
        """Forget the pages from `first` up to `end`, which are not told again, roundly."""
        behind = HIGH_RAM_START - LOW_RAM_END
        low, high = max(0, first - behind) // 8, end // 8
        low, high = -(-low // mmap.PAGESIZE) * mmap.PAGESIZE, high // mmap.PAGESIZE * mmap.PAGESIZE
        if high > low and hasattr(self._mapping, "madvise"):
            self._mapping.madvise(mmap.MADV_DONTNEED, low, high - low)

    def done(self) -> npt.NDArray[np.int64]:
        """Return the look-ups, calls, extents and partial pages so far."""
        state = self.device.state[0]
        names = "n_translations", "n_discards", "n_extents"
        return np.array([*(state[name] for name in names), self._partial[0]])

    def finish(self) -> npt.NDArray[np.int64]:
        """Count what it still holds, too; as `done`."""
        if self.device.state[0]["held"]:
            kernels.count_held(self.device, self._partial)
        return self.done()


def _crew(threads: int) -> crew.Crew:
    """Return a crew whose threads never run: only their shares are made."""
    others = threads - 1
    return crew.Crew(
        starts=np.zeros(others, np.int64),
        finished=np.zeros(others, np.int64),
        shares=np.zeros((EXTENTS + threads if others else 0, 2), np.int64),
        bounds=np.zeros(threads + 1, np.int64),
        outcomes=np.zeros(3 * threads, np.int64),
        control=np.zeros(2, np.int64),
        cell=np.zeros(2, np.int64),
    )


class Pages(Protocol):
    """Pages as they are counted: `balloonlab.pages.streams.PageStream`, or a list."""

    @property
    def balloon_pages(self) -> int:
        """How many there are."""

    @property
    def end(self) -> int:
        """One page beyond the highest."""

    @property
    def list_runs(self) -> int | None:
        """Pieces of the list in which neighbours follow each other; None: the bitmap's runs."""

    def windows(self, window_pages: int) -> Iterator[tuple[int, Words]]:
        """Yield every window with pages in it, ascending."""

    def lists(self, newest_first: bool = False) -> Iterator[Words]:
        """Yield the pages in list order."""


class _Listed:
    def __init__(self, pages: Words) -> None:
        self._pages = pages
        self.balloon_pages = pages.size

    @cached_property
    def end(self) -> int:
        return int(self._pages.max()) + 1 if self._pages.size else 0

    @cached_property
    def list_runs(self) -> int:
        return count_list_runs(self._pages)

    def windows(self, window_pages: int) -> Iterator[tuple[int, Words]]:
        return pack_windows(self._pages)

    def lists(self, newest_first: bool = False) -> Iterator[Words]:
        for _ in pack_windows(self._pages):  # raises when a page comes twice
            pass
        yield self._pages[::-1] if newest_first else self._pages


def counts(pattern: Pattern, protocol: str | None = None, **options: Any) -> dict[str, int]:
    """Count what a measurement would count, without making it, for guests of any size.

    Parameters
    ----------
    pattern : str or array-like of int
        As in `balloonlab.measure`. Up to 32 GiB of memory, with another ``order``, and of traces
        the pages are those that a measurement has. Of larger guests they are made in a stream
        (`balloonlab.pages.streams`): ``idle`` and ``every:K`` are the same pages again, those that
        are drawn are others of the same kind.
    protocol : str, optional
        One of `balloonlab.wire.spoken`, or ``madvise``. ``bitmap-v4`` by default.
    **options
        As in `balloonlab.measure`. What needs a guest's allocator is not counted (ValueError):
        ``allocation="chunk"``, ``reporting``, ``hinting``; nor are drivers short of bitmaps. Of
        several ``steps`` pages must be listed.

    Returns
    -------
    dict of str to int
        `COUNTS`, as in the frame of `balloonlab.measure`. With ``collect`` above 1 for a guest that
        keeps its host busy: a device also discards what it holds when no kick comes for 1 ms.

    Raises
    ------
    ValueError, TypeError
        As `balloonlab.measure`; what cannot be counted, and why.

    Notes
    -----
    Time is proportional to the pages, memory is that of a window of 32 GiB: 64 TiB at random take
    minutes and some hundred MiB. ``pfn`` depends on the order of the list: neighbours in a message
    are merged, those of two messages are not.

    Examples
    --------
    >>> counts(range(100, 500), "bitmap-v4")["wire_bytes"]
    56
    >>> counts("idle", "bitmap-v4", memory="64TiB")["n_kicks"]
    1792
    """
    found = count(make_case(pattern=pattern, protocol=protocol, **options))
    return {name: found[name] for name in COUNTS}


def count(case: Case) -> dict[str, int]:
    """Return the `UNITS` of a case; as `counts`."""
    _check(case)
    if case.protocol == FLOOR:
        one = dict.fromkeys(("n_discards", "n_extents"), 1)
        return dict.fromkeys(UNITS, 0) | {"n_pages": case.balloon_pages} | one
    wire_format = wire.get(case.protocol, case.kick_pages)
    pages = _pages_of(case)
    if pages.end > wire_format.pfn_limit:
        bits = wire_format.pfn_limit.bit_length() - 1
        raise ValueError(
            f"pfns must be below 2**{bits} in {case.protocol!r}, got {pages.end - 1}: use "
            "'bitmap-v4'"
        )
    if wire_format.encoding == Encoding.PFNS:
        return _count_lists(case, wire_format, pages)
    return _count_windows(case, wire_format, pages)


def _check(case: Case) -> None:
    """Refuse what only a guest's allocator knows (ValueError)."""
    if case.protocol != FLOOR and case.protocol not in wire.spoken():
        rule = f"protocol must be one of {', '.join(wire.spoken())} or {FLOOR} to be counted"
        raise ValueError(f"{rule}, got {case.protocol!r}: its messages are free blocks")
    if case.protocol == "bitmap-v4-posted":
        raise ValueError(
            "protocol must not be 'bitmap-v4-posted' to be counted: it leaves pages out; "
            "balloonlab.model.messages has its messages"
        )
    for name, usual in (("allocation", "page"), ("bitmaps", MAX_BITMAPS), ("steps", 1)):
        if getattr(case, name) != usual:
            value = getattr(case, name)
            raise ValueError(f"{name} must be {usual!r} to be counted, got {value!r}")
    if case.protocol == FLOOR and case.threads > 1:
        raise ValueError(f"threads must be 1 for one madvise to be counted, got {case.threads}")


def _pages_of(case: Case) -> Pages:
    memory, balloon = size_literal(case.memory_bytes), size_literal(case.balloon_bytes)
    drawn = case.given is None and not case.pattern.startswith((traces.PREFIX, CUSTOM))
    if drawn and case.order == "as is" and case.memory_pages > PIECE_PAGES:
        return open_stream(case.pattern, memory, balloon)
    return _Listed(patterns.ordered(case.pages(), case.order))


def _make_host(case: Case, wire_format: Format, pages: Pages) -> Host:
    inflating = case.operation == "inflate"
    huge = case.backing == "hugetlb" and inflating
    policy = Policy(case.discard, case.vectors or 1, case.threads, case.collect if inflating else 1)
    return Host(wire_format, policy, pages.end, HUGE_BYTES if huge else PAGE_BYTES)


def _count_lists(case: Case, wire_format: Format, pages: Pages) -> dict[str, int]:
    """Count page numbers, batch by batch in list order."""
    n_pages, step = pages.balloon_pages, case.kick_pages
    found = dict.fromkeys(UNITS, n_pages) | {"n_runs": _count_runs(pages)}
    found |= {"n_kicks": -(-n_pages // step), "wire_bytes": 4 * n_pages}
    if DISCARDS[case.discard] == Discard.PER_PAGE and case.backing != "hugetlb":
        if isinstance(pages, _Listed):
            next(pages.lists())
        return found  # a call and a look-up per page, in whatever order
    host, rest = _make_host(case, wire_format, pages), np.zeros(0, np.uint64)
    for listed in pages.lists(newest_first=case.operation == "deflate"):
        if listed.size == 0:
            continue
        listed = np.concatenate([rest, listed]) if rest.size else listed
        whole = listed.size // step * step
        rest = listed[whole:].copy()
        _take_list(host, listed[:whole], step)
        if not isinstance(pages, _Listed):
            host.forget(int(listed.min()), int(listed.max()) + 1)
    _take_list(host, rest, step)
    return found | dict(zip(UNITS[-5:-1], host.finish().tolist(), strict=True))


def _count_runs(pages: Pages) -> int:
    if pages.list_runs is not None:
        return pages.list_runs
    return sum(int(count_runs(words)) for _, words in pages.windows(WINDOW_PAGES))


def _take_list(host: Host, pages: Words, kick_pages: int) -> None:
    numbers = np.empty(pages.size, np.uint32)
    write_pfns(np.ascontiguousarray(pages), numbers)
    host.take(numbers.view(np.uint8), 4 * kick_pages)


def _count_windows(case: Case, wire_format: Format, pages: Pages) -> dict[str, int]:
    """Count records, window by window; one that is as the last one is not encoded again."""
    host = _make_host(case, wire_format, pages)
    if wire_format.encoding == Encoding.SEGMENTS:
        return _count_going_on(host, wire_format, pages)
    total = np.zeros(len(UNITS), np.int64)
    last, of_last = np.zeros(0, np.uint64), total
    for first_pfn, words in pages.windows(WINDOW_PAGES):
        if words is not last and not np.array_equal(words, last):
            of_last = _count_window(host, first_pfn, words, wire_format.encoding)
            host.forget(first_pfn, first_pfn + 64 * words.size)
            # Below 4 GiB is the hole; what is held of a window depends on those before it.
            is_like_others = first_pfn >= HIGH_RAM_START and host.is_settled
            last = words if is_like_others else np.zeros(0, np.uint64)
        total = total + of_last
    before = host.done()
    total[-5:-1] += host.finish() - before
    found = dict(zip(UNITS, total.tolist(), strict=True))
    return found if pages.list_runs is None else found | {"n_runs": pages.list_runs}


def _count_going_on(host: Host, wire_format: Format, pages: Pages) -> dict[str, int]:
    """Count messages that go on from window to window: none is as the last one."""
    n_runs, behind = 0, deque[tuple[int, int]]()

    def windows() -> Iterator[tuple[int, Words]]:
        nonlocal n_runs
        for first_pfn, words in pages.windows(WINDOW_PAGES):
            n_runs += int(count_runs(words))
            behind.append((first_pfn, first_pfn + 64 * words.size))
            if len(behind) > 2:
                host.forget(*behind.popleft())
            yield first_pfn, words

    n_kicks = n_bytes = n_records = 0
    for stream, so_far in split_windows(windows(), wire_format.encoding):
        n_records = so_far
        for message in stream:
            host.take(message, len(message), forgets=True)
        n_kicks, n_bytes = n_kicks + len(stream), n_bytes + sum(map(len, stream))
    n_runs = n_runs if pages.list_runs is None else pages.list_runs
    found = [pages.balloon_pages, n_kicks, n_bytes, n_records, *host.finish().tolist(), n_runs]
    return dict(zip(UNITS, found, strict=True))


def _count_window(host: Host, first_pfn: int, words: Words, encoding: int) -> npt.NDArray[np.int64]:
    before = host.done()
    stream, n_records = split([(first_pfn, words)], encoding)
    for message in stream:
        host.take(message, len(message))
    n_pages, n_bytes, n_runs = count_bits(words), sum(map(len, stream)), count_runs(words)
    return np.array([n_pages, len(stream), n_bytes, n_records, *(host.done() - before), n_runs])
