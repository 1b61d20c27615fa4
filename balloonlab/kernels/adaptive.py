"""``adaptive``: of five ways to name pages the shortest, decided word by word of one bitmap.

A message is a row of segments, each a 64-bit head and what it counts, in units of 16 bits:

====  ======  =============================================  ==============================
kind  name    head, from bit 3 on                            behind it
====  ======  =============================================  ==============================
0     RUN     page number 39 bits, pages less 1 22 bits
1     RUNS    word (64 pages) 33 bits, runs less 1 16 bits   first page, pages less 1: 16 each
2     SINGLE  word 33 bits, pages less 1 16 bits             page, 16 bits each
3     BITS    word 33 bits, words less 1 16 bits             64 bits each
4     PFNS    pages less 1 16 bits                           page number, 32 bits each
====  ======  =============================================  ==============================

First pages and pages of RUNS and SINGLE count from the head's word on. PFNS is the last segment of
a message: pages go there from anywhere, and what was open before them is closed. Which way a word
goes is planned for a bitmap as a whole (`balloonlab.kernels.adaptive_plan`). Messages go on from
one bitmap to the next, so few pages in each of many take 4 bytes each, as they do in ``pfn``.
"""

from __future__ import annotations

import numpy as np

from .adaptive_plan import BITS, EMPTY, NEW, PFNS, RUN, RUNS, SINGLE
from .bitmap import FULL, WORD, ZERO, append_runs
from .compile import kernel
from .faults import BUFFER_LENGTH, KIND, RECORD_RANGE, record_fault
from .intrinsics import clear_lowest, trailing_zeros

N_KINDS = 5
HEAD_UNITS = 4
UNITS_AHEAD = 160  # what a word adds at most: 64 PFNs, and heads
PFN_UNITS = 2
PFN_LIMIT = 1 << 39
MOST_RUN = 1 << 22


@kernel
def _put_head(units, at, kind, value, count):
    """Write a head: kind, 39 bits of value (a page number or a word), and a count above."""
    shift = np.uint64(42) if kind == RUN else np.uint64(36)
    shift = np.uint64(3) if kind == PFNS else shift
    head = np.uint64(kind) | np.uint64(value) << np.uint64(3) | np.uint64(count - 1) << shift
    for k in range(HEAD_UNITS):
        units[at + k] = np.uint16((head >> np.uint64(16 * k)) & np.uint64(0xFFFF))


@kernel
def _put_run(units, at, first, n_pages):
    while n_pages > 0:
        part = min(n_pages, MOST_RUN)
        _put_head(units, at, RUN, first, part)
        at += HEAD_UNITS
        first += part
        n_pages -= part
    return at


@kernel
def _put_word(units, at, kind, word, pfn, base):
    """Write what a word adds to a segment of BITS or SINGLE; return the unit behind it."""
    if kind == BITS:
        for k in range(4):
            units[at + k] = np.uint16((word >> np.uint64(16 * k)) & np.uint64(0xFFFF))
        return at + 4
    left = word
    while left != ZERO:
        units[at] = np.uint16(pfn + trailing_zeros(left) - base)
        left = clear_lowest(left)
        at += 1
    return at


@kernel
def _list_word(units, n_listed, word, pfn):
    """List the pages of a word at the end of the area, the last one foremost; return how many."""
    left = word
    while left != ZERO:
        page = pfn + trailing_zeros(left)
        left = clear_lowest(left)
        n_listed += 1
        at = units.size - PFN_UNITS * n_listed
        units[at] = np.uint16(page & 0xFFFF)
        units[at + 1] = np.uint16((page >> 16) & 0xFFFF)
    return n_listed


@kernel
def _put_open_run(units, at, kind, first, end, base):
    """Write the run that a segment of RUN or RUNS has found, if any; return the unit behind it."""
    if end <= first:
        return at
    if kind == RUN:
        return _put_run(units, at, first, end - first)
    units[at] = np.uint16(first - base)
    units[at + 1] = np.uint16(end - first - 1)
    return at + 2


@kernel
def _skip_full(words, word, chosen):
    """Return the first word from `word` on that is not full, or of which a segment begins.

    At most so far on that the run needs one head more.
    """
    end = min(words.size, word + MOST_RUN // WORD)
    while word < end and words[word] == FULL and chosen[word] == RUN:
        word += 1
    return word


@kernel
def _is_near_end(units, at, n_listed, n_open):
    """Return whether the area may have no room for another word; a run of `n_open` pages is open.

    It is written when it has ended, in as many heads as it needs.
    """
    due = HEAD_UNITS * (n_open // MOST_RUN)
    return at + due + PFN_UNITS * n_listed + UNITS_AHEAD > units.size


@kernel
def fill_segments(words, first_pfn, chosen, state, units):
    """Write segments as `plan` chose, behind those before; return whether the area is full.

    `units` (uint16) is the area. Of `state` ``word`` is the next word, ``at`` the first free unit
    and ``n_listed`` the pages listed at the end of the area, all 0 at the start; heads are added to
    ``n_records``. `close_segments` makes a message of it.
    """
    word, at, n_listed = state["word"], state["at"], state["n_listed"]
    n_records = 0
    while word < words.size and not _is_near_end(units, at, n_listed, 0):
        if chosen[word] == EMPTY:
            word += 1
            continue
        kind = np.int64(chosen[word]) & 7
        if kind == PFNS:
            n_listed = _list_word(units, n_listed, words[word], first_pfn + word * WORD)
            word += 1
            continue
        head, base = at, first_pfn + word * WORD
        at += 0 if kind == RUN else HEAD_UNITS
        first, end = 0, 0  # of the run at hand
        while True:
            left, pfn = words[word], first_pfn + word * WORD
            if kind > RUNS:
                at = _put_word(units, at, kind, left, pfn, base)
                left = ZERO
            while left != ZERO:
                skip = trailing_zeros(left)
                left >>= np.uint64(skip)
                length = trailing_zeros(~left)
                pfn += skip
                if pfn != end:
                    at = _put_open_run(units, at, kind, first, end, base)
                    first = pfn
                pfn += length
                end = pfn
                left = ZERO if length == WORD else left >> np.uint64(length)
            word += 1
            if kind == RUN and end == first_pfn + word * WORD:
                word = _skip_full(words, word, chosen)
                end = first_pfn + word * WORD
            while word < words.size and chosen[word] == EMPTY:
                word += 1
            if (
                word == words.size
                or np.int64(chosen[word]) & NEW != 0
                or _is_near_end(units, at, n_listed, end - first)
            ):
                break
        at = _put_open_run(units, at, kind, first, end, base)
        if kind != RUN:
            size = 4 if kind == BITS else 1 if kind == SINGLE else 2
            _put_head(units, head, kind, base >> 6, (at - head - HEAD_UNITS) // size)
        n_records += (at - head) // HEAD_UNITS if kind == RUN else 1
    state["word"] = word
    state["at"] = at
    state["n_listed"] = n_listed
    state["n_records"] += n_records
    return word < words.size


@kernel
def close_segments(state, units):
    """Put the pages that were listed behind the other segments; return the units of the message."""
    at, n_listed = state["at"], state["n_listed"]
    state["at"] = 0
    state["n_listed"] = 0
    if n_listed == 0:
        return at
    state["n_records"] += 1
    listed = units[units.size - PFN_UNITS * n_listed :]
    for i in range(n_listed // 2):
        a, b = PFN_UNITS * i, PFN_UNITS * (n_listed - 1 - i)
        for k in range(PFN_UNITS):
            listed[a + k], listed[b + k] = listed[b + k], listed[a + k]
    _put_head(units, at, PFNS, 0, n_listed)  # below the list: UNITS_AHEAD are left
    at += HEAD_UNITS
    for i in range(listed.size):
        units[at + i] = listed[i]
    return at + listed.size


@kernel
def _read(units, at, n):
    """Return `n` units as one uint64."""
    value = ZERO
    for k in range(n):
        value |= np.uint64(units[at + k]) << np.uint64(16 * k)
    return value


@kernel
def decode_segments(words, n_bytes, ranges, faults):
    """Turn one buffer into ranges, trusting nothing; as `bitmap_v4.decode_records`.

    A segment of no kind, or one that is not all there, ends the buffer.
    """
    units, size = words.view(np.uint16), n_bytes // 2
    if n_bytes % 2 != 0 or n_bytes == 0:
        record_fault(faults, BUFFER_LENGTH, 2 * size)
        return 0
    n, at = 0, 0
    while at < size:
        here = 2 * at
        if at + HEAD_UNITS > size:
            record_fault(faults, BUFFER_LENGTH, here)
            return n
        head = _read(units, at, HEAD_UNITS)
        at += HEAD_UNITS
        kind = np.int64(head & np.uint64(7))
        if kind == RUN:
            first = np.int64((head >> np.uint64(3)) & np.uint64(PFN_LIMIT - 1))
            ranges[n, 0] = first
            ranges[n, 1] = np.int64(head >> np.uint64(42)) + 1
            if first + ranges[n, 1] > PFN_LIMIT:
                record_fault(faults, RECORD_RANGE, here)
            else:
                n += 1
            continue
        if kind >= N_KINDS:
            record_fault(faults, KIND, here)
            return n
        count_at, spare_at = (
            np.uint64(3 if kind == PFNS else 36),
            np.uint64(19 if kind == PFNS else 52),
        )
        count = np.int64((head >> count_at) & np.uint64(0xFFFF)) + 1
        if head >> spare_at != ZERO:
            record_fault(faults, KIND, here)
            return n
        size_of = 4 if kind == BITS else 1 if kind == SINGLE else 2
        if at + count * size_of > size:
            record_fault(faults, BUFFER_LENGTH, here)
            return n
        base = np.int64((head >> np.uint64(3)) & np.uint64((1 << 33) - 1)) << 6
        joinable = n
        for i in range(count):
            item = at + i * size_of
            if kind == BITS:
                n = append_runs(_read(units, item, 4), base + i * WORD, ranges, n, joinable)
            else:
                page = base + np.int64(units[item])
                ranges[n, 0] = np.int64(_read(units, item, 2)) if kind == PFNS else page
                ranges[n, 1] = np.int64(units[item + 1]) + 1 if kind == RUNS else 1
                n += 1
        at += count * size_of
    return n
