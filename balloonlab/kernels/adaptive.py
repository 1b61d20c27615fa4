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
a message: pages go there from anywhere, and what was open before them is closed. `plan` walks a
bitmap once and keeps for each of the five the fewest bytes that lead up to this word; then it goes
back along the best. Messages go on from one bitmap to the next, so few pages in each of many take
4 bytes each, as they do in ``pfn``.
"""

from __future__ import annotations

import numpy as np

from .bitmap import FULL, ONE, TOP, WORD, ZERO, append_runs
from .compile import kernel
from .faults import BUFFER_LENGTH, KIND, RECORD_RANGE, record_fault
from .intrinsics import clear_lowest, popcount, trailing_zeros

RUN, RUNS, SINGLE, BITS, PFNS = range(5)
N_KINDS = 5
NEW, EMPTY = 0x80, 0xFF  # in a plan: a segment begins; the word is 0

HEAD_BYTES, HEAD_UNITS = 8, 4
RUN_BYTES = 8  # of a RUN, which is all head
UNITS_AHEAD = 160  # what a word adds at most: 64 PFNs, and heads
PFN_UNITS = 2
PFN_LIMIT = 1 << 39
MOST_RUN = 1 << 22
SPAN_WORDS = 1024  # that 16 bits reach
FAR = 1 << 60  # no way
SETTLED = 3  # full words of a run, after which all sums stay as they are
WITHIN = 1 << SINGLE | 1 << BITS | 1 << PFNS | RUN << 5  # what `plan` keeps of such a word


@kernel
def _plan_full(words, i, chosen, runs, runs_from, best):
    """Plan a stretch of full words within a run; return its last word, and the RUNS there.

    The fourth full word costs a run nothing, and each other way the same as the third: SINGLE and
    BITS begin anew after the run, RUNS goes on as far as its first pages reach. So the sums stay as
    they are. Contiguous pages take a quarter less time to encode.
    """
    while i < words.size and words[i] == FULL:
        chosen[i] = WITHIN
        if i - runs_from >= SPAN_WORDS:
            runs, runs_from = best + HEAD_BYTES + 4, i
            chosen[i] = WITHIN | 1 << RUNS
        i += 1
    return i - 1, runs, runs_from


@kernel
def plan(words, first_pfn, chosen):
    """Choose the kind of each word's segment; `chosen` is uint8, as many as `words` (uint64).

    A kind, with NEW where a segment begins with the word; EMPTY for words that are 0. `first_pfn`
    is the page of bit 0, a multiple of 64. Return the bytes of all segments, but the head of PFNS:
    a message has at most one.
    """
    run, runs, single, bits = 0, FAR, FAR, FAR
    runs_from, single_from, before = 0, 0, -2
    best, cheapest = 0, RUN
    below, i = ZERO, -1
    n_full = 0  # full words up to here, all in a run that is cheapest
    while i + 1 < words.size:
        i += 1
        word = words[i]
        if word == ZERO:
            chosen[i] = EMPTY
            below, n_full = ZERO, 0
            continue
        if n_full >= SETTLED and word == FULL:
            i, runs, runs_from = _plan_full(words, i, chosen, runs, runs_from, best)
            single, single_from = best + HEAD_BYTES + 2 * WORD, i
            bits, before = best + HEAD_BYTES + 8, i
            continue
        goes_on = np.int64(below & word & ONE)  # a run of the word before
        below = word >> TOP
        starts = popcount(word & ~(word << ONE)) - goes_on
        n = popcount(word)
        opened = 0
        by = run + RUN_BYTES * starts
        anew = best + RUN_BYTES * (starts + goes_on)
        if anew < by:
            by, opened = anew, opened | 1 << RUN
        run = by
        by = runs + 4 * starts if i - runs_from < SPAN_WORDS else FAR
        anew = best + HEAD_BYTES + 4 * (starts + goes_on)
        if anew < by:
            by, opened, runs_from = anew, opened | 1 << RUNS, i
        runs = by
        by = single + 2 * n if i - single_from < SPAN_WORDS else FAR
        anew = best + HEAD_BYTES + 2 * n
        if anew < by:
            by, opened, single_from = anew, opened | 1 << SINGLE, i
        single = by
        by = bits + 8 if i == before + 1 else FAR
        anew = best + HEAD_BYTES + 8
        if anew < by:
            by, opened = anew, opened | 1 << BITS
        bits = by
        pfns = best + 4 * n if first_pfn + (i + 1) * WORD <= np.int64(1) << 32 else FAR
        opened |= 1 << PFNS
        chosen[i] = opened | cheapest << 5
        best, cheapest = run, RUN
        if runs < best:
            best, cheapest = runs, RUNS
        if single < best:
            best, cheapest = single, SINGLE
        if bits < best:
            best, cheapest = bits, BITS
        if pfns < best:
            best, cheapest = pfns, PFNS
        before = i
        n_full = n_full + 1 if word == FULL and cheapest == RUN else 0
    kind = cheapest
    for back in range(words.size):
        i = words.size - 1 - back
        if kind == RUN and chosen[i] == WITHIN:
            chosen[i] = RUN
        elif words[i] != ZERO:
            opened, came_from = np.int64(chosen[i]) & 31, np.int64(chosen[i]) >> 5
            new = (opened >> kind) & 1
            chosen[i] = kind | (NEW if new != 0 else 0)
            if new != 0:
                kind = came_from
    return best


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
