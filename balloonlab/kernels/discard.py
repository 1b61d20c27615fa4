"""What the host does with extents of guest memory: one call each, or many in a vectored one.

Which call it is, and on how large pages, is a `Verb`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .bitmap import FULL
from .compile import kernel
from .syscalls import advise, advise_vectors, map_anew, punch_hole

WORD_BYTES = 64 * 4096  # of RAM that a word of the balloon's bitmap stands for
SHORT_RUN = 16  # rows that are sorted by insertion; of 8 to 64 the fastest, 256 shuffled rows: 4 us


class Discard(IntEnum):
    """How a device applies a message."""

    PER_PAGE = 0
    """One call per page, as QEMU does."""
    PER_RANGE = 1
    """Ranges that adjoin the one named just before are merged; one call for each."""
    SORTED = 2
    """Ranges are sorted and all that adjoin merged; one call for each."""
    VECTOR = 3
    """As PER_RANGE, but many in one vectored call."""
    SORTED_VECTOR = 4
    """As SORTED, but many in one vectored call."""


class Act(IntEnum):
    """The system call that takes memory away."""

    ADVISE = 0
    """``madvise``, by `Verb.advice`."""
    PUNCH = 1
    """``fallocate`` makes a hole in `Verb.file`."""
    MAP = 2
    """``mmap`` of anonymous memory in the place of what is there, with `Verb.flags`."""


class Verb(NamedTuple):
    """What is done to an extent."""

    act: int  # one of `Act`
    advice: int
    file: int  # what RAM is a mapping of, from its first byte on; -1 for no file
    flags: int
    page_bytes: int  # of the pages behind RAM: what can be freed


class Vectors(NamedTuple):
    """What a device has for sorting, and for calls that take many ranges."""

    pidfd: int  # of this process
    iovecs: np.ndarray  # int64, shape (n, 2): address and bytes, n of them a call
    scratch: np.ndarray  # int64, as many rows as there are extents
    whole: np.ndarray  # int64, the same, where pages behind RAM are huge


@kernel
def _sort_short_runs(extents):
    for start in range(0, extents.shape[0], SHORT_RUN):
        for i in range(start + 1, min(start + SHORT_RUN, extents.shape[0])):
            offset, n_bytes = extents[i, 0], extents[i, 1]
            j = i
            while j > start and extents[j - 1, 0] > offset:
                extents[j, 0] = extents[j - 1, 0]
                extents[j, 1] = extents[j - 1, 1]
                j -= 1
            extents[j, 0] = offset
            extents[j, 1] = n_bytes


@kernel
def _merge_runs(source, target, width):
    """Merge pairs of sorted runs of `width` rows."""
    n = source.shape[0]
    for start in range(0, n, 2 * width):
        middle, end = min(start + width, n), min(start + 2 * width, n)
        left, right = start, middle
        for at in range(start, end):
            if left < middle and (right >= end or source[left, 0] <= source[right, 0]):
                target[at, 0] = source[left, 0]
                target[at, 1] = source[left, 1]
                left += 1
            else:
                target[at, 0] = source[right, 0]
                target[at, 1] = source[right, 1]
                right += 1


@kernel
def sort_extents(extents, scratch):
    """Sort extents by offset and merge those that adjoin or overlap; return how many are left.

    `extents` are int64 rows of offset and length in bytes; `scratch` has at least as many rows.
    """
    n = extents.shape[0]
    ascending = True
    for i in range(1, n):
        ascending = ascending and extents[i - 1, 0] < extents[i, 0]
    if not ascending:
        _sort_short_runs(extents)
        width = SHORT_RUN
        while width < n:
            _merge_runs(extents, scratch[:n], width)
            for i in range(n):
                extents[i, 0], extents[i, 1] = scratch[i, 0], scratch[i, 1]
            width *= 2
    left = 0
    for i in range(n):
        last_end = extents[left - 1, 0] + extents[left - 1, 1] if left > 0 else -1
        if last_end >= extents[i, 0]:
            extents[left - 1, 1] += max(0, extents[i, 0] + extents[i, 1] - last_end)
        else:
            extents[left, 0] = extents[i, 0]
            extents[left, 1] = extents[i, 1]
            left += 1
    return left


@kernel
def _all_inside(balloon, offset, n_bytes):
    """Whether all of whole words' pages are in the balloon."""
    for word in range(offset // WORD_BYTES, (offset + n_bytes) // WORD_BYTES):
        if balloon[word] != FULL:
            return False
    return True


@kernel
def complete(extents, balloon, page_bytes, vectors):
    """Fill ``vectors.whole`` with the huge pages that extents are of; return how many rows.

    Only those of which all is in the balloon (a bit per 4 KiB, in words): the last extent that
    comes of a huge page, in whichever message, frees it. Rows are sorted and none repeats.
    `page_bytes` is a multiple of 256 KiB.
    """
    whole = vectors.whole
    n = 0
    for i in range(extents.shape[0]):
        low = extents[i, 0] // page_bytes * page_bytes
        end = extents[i, 0] + extents[i, 1]
        high = -(-end // page_bytes) * page_bytes
        if not _all_inside(balloon, low, page_bytes):
            low += page_bytes
        if low < high and not _all_inside(balloon, high - page_bytes, page_bytes):
            high -= page_bytes
        if low < high:
            whole[n, 0] = low
            whole[n, 1] = high - low
            n += 1
    return sort_extents(whole[:n], vectors.scratch)


@kernel
def _free(memory, offset, n_bytes, verb):
    """Do to an extent what `verb` says; 0, or -1 on error."""
    if verb.act == Act.PUNCH:
        return punch_hole(verb.file, offset, n_bytes)
    if verb.act == Act.MAP:
        return map_anew(memory.base_address + offset, n_bytes, verb.flags)
    return advise(memory.base_address + offset, n_bytes, verb.advice)


@kernel
def discard(memory, extents, verb):
    """Make a call per extent (rows of offset and length in bytes); return how many failed."""
    failed = 0
    for i in range(extents.shape[0]):
        if _free(memory, extents[i, 0], extents[i, 1], verb) != 0:
            failed += 1
    return failed


@kernel
def discard_vectored(memory, extents, verb, vectors):
    """Call process_madvise for as many extents at a time as there are iovecs; return calls, failed.

    A call stops at what the kernel refuses and says how many bytes it did: what it stopped at has
    failed, and the next call goes on behind it.
    """
    iovecs = vectors.iovecs
    n_calls, failed, done = 0, 0, 0
    while done < extents.shape[0]:
        n = min(extents.shape[0] - done, iovecs.shape[0])
        for i in range(n):
            iovecs[i, 0] = memory.base_address + extents[done + i, 0]
            iovecs[i, 1] = extents[done + i, 1]
        left = advise_vectors(vectors.pidfd, iovecs, n, verb.advice)
        n_calls += 1
        behind = done + n
        while done < behind and 0 < extents[done, 1] <= left:
            left -= extents[done, 1]
            done += 1
        if done < behind:
            failed += 1
            done += 1
    return n_calls, failed
