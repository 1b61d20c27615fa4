"""What the host does with extents of guest memory: one call each, or many in a vectored one."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .compile import kernel
from .syscalls import advise, advise_vectors

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


class Vectors(NamedTuple):
    """What a device has for sorting, and for calls that take many ranges."""

    pidfd: int  # of this process
    iovecs: np.ndarray  # int64, shape (n, 2): address and bytes, n of them a call
    scratch: np.ndarray  # int64, as many rows as there are extents


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
    """Sort extents by offset and merge those that adjoin; return how many are left.

    `extents` are int64 rows of offset and length in bytes, none overlaps another; `scratch` has at
    least as many rows.
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
            extents[:] = scratch[:n]
            width *= 2
    left = 0
    for i in range(n):
        if left > 0 and extents[left - 1, 0] + extents[left - 1, 1] == extents[i, 0]:
            extents[left - 1, 1] += extents[i, 1]
        else:
            extents[left, 0] = extents[i, 0]
            extents[left, 1] = extents[i, 1]
            left += 1
    return left


@kernel
def discard(memory, extents, advice):
    """Call madvise once per extent (rows of offset and length in bytes); return how many failed."""
    failed = 0
    for i in range(extents.shape[0]):
        if advise(memory.base_address + extents[i, 0], extents[i, 1], advice) != 0:
            failed += 1
    return failed


@kernel
def discard_vectored(memory, extents, advice, vectors):
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
        left = advise_vectors(vectors.pidfd, iovecs, n, advice)
        n_calls += 1
        behind = done + n
        while done < behind and 0 < extents[done, 1] <= left:
            left -= extents[done, 1]
            done += 1
        if done < behind:
            failed += 1
            done += 1
    return n_calls, failed
