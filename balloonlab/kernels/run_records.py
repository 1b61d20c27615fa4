"""Runs of pages as records: the formats of Dec 2016 to 2020 that name ranges.

``range-v6`` and ``chunk-v7``: a uint64, page number << 12 | pages; where there are 4096 or more, 0
and their number in the next word (v7: after a word with the number of records). ``desc-v11``: the
16 bytes of a descriptor, address, length and zeros. ``cont-pages``: page number and pages, 32 bits
each.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from .bitmap import FULL, GROUP, ONE, TOP, WORD, ZERO, bit_length
from .compile import kernel
from .faults import BUFFER_LENGTH, RECORD_COUNT, RECORD_RANGE, record_fault
from .intrinsics import clear_lowest, popcount, trailing_zeros

PFN_BITS = 52
SHORT_PAGES = 1 << 12  # what no short record has
DESC_PAGES = (1 << 20) - 1  # whole pages below 4 GiB, what 32 bits of length hold
CONT_PAGES = (1 << 32) - 1
MOST_WORDS = 2  # of a record
LOW_BITS = np.uint64(0xFFF)


class Runs(IntEnum):
    """What a record of a run looks like."""

    RANGE_V6 = 0
    CHUNK_V7 = 1
    DESC_V11 = 2
    CONT_PAGES = 3


@kernel
def most_pages(kind):
    """Return the most pages that one record names."""
    if kind == Runs.DESC_V11:
        return DESC_PAGES
    return CONT_PAGES if kind == Runs.CONT_PAGES else np.int64(1) << PFN_BITS


@kernel
def run_words(kind, pfn, n_pages):
    """Return the two words of a record and how many of them it has."""
    first, count = np.uint64(pfn), np.uint64(n_pages)
    if kind == Runs.DESC_V11:
        return first << np.uint64(12), count << np.uint64(12), 2
    if kind == Runs.CONT_PAGES:
        return first | (count << np.uint64(32)), ZERO, 1
    if n_pages < SHORT_PAGES:
        return (first << np.uint64(12)) | count, ZERO, 1
    return first << np.uint64(12), count, 2


@kernel
def put_run(kind, area, n, pfn, n_pages):
    """Write a record at word `n`; return the word behind it."""
    area[n], area[n + 1], size = run_words(kind, pfn, n_pages)
    return n + size


@kernel
def _put_long(kind, area, n, first_pfn, start, end):
    """Write a run of bits, cut where no record holds it, as far as there is room.

    Return the word behind it, its records, and the bit that is not yet in one.
    """
    n_records = 0
    while start < end and n + MOST_WORDS <= area.size:
        part = min(end - start, most_pages(kind))
        n = put_run(kind, area, n, first_pfn + start, part)
        n_records += 1
        start += part
    return n, n_records, start


@kernel
def _put_inside(kind, area, n, starts, ends, n_runs, pfn):
    """Write the runs of one word, of starts and ends (uint64), in groups of four; return the end.

    Without a test in between. What a group writes too much is overwritten, or not sent.
    """
    for _ in range(0, n_runs, GROUP):
        for _ in range(GROUP):
            start = trailing_zeros(starts)
            first, count = np.uint64(pfn + start), np.uint64(trailing_zeros(ends) - start)
            starts, ends = clear_lowest(starts), clear_lowest(ends)
            if kind == Runs.DESC_V11:
                area[n] = first << np.uint64(12)
                area[n + 1] = count << np.uint64(12)
                n += 2
            elif kind == Runs.CONT_PAGES:
                area[n] = first | count << np.uint64(32)
                n += 1
            else:
                area[n] = first << np.uint64(12) | count
                n += 1


@kernel
def fill_runs(kind, words, first_pfn, state, area):
    """Write runs of set bits as records until the area is full; return its words, 0 at the end.

    `words` (uint64) is a bitmap, `first_pfn` the page of its bit 0. Of `state` ``word`` and ``bit``
    say where to go on, 0 at the start; records are added to ``n_records``. Starts and ends are
    taken off two masks of a word, in groups of four where there is room: 3 ns a run of a half-full
    random bitmap, 10 where each was looked for from the end of the one before.
    """
    header = 1 if kind == Runs.CHUNK_V7 else 0
    n, n_records = header, 0
    word, unread = state["word"], FULL << np.uint64(state["bit"])
    start = -1  # of the run at hand, in bits
    at = -1  # where the next message begins
    while word < words.size and at < 0:
        bits = words[word] & unread
        unread = FULL
        base = word * WORD
        word += 1
        if bits == FULL:
            start = base if start < 0 else start
            continue
        before = (bits << ONE) | (ONE if start >= 0 else ZERO)
        starts, ends = bits & ~before, before & ~bits
        if start >= 0:
            end = base + trailing_zeros(ends)
            n, more, start = _put_long(kind, area, n, first_pfn, start, end)
            n_records += more
            if n + MOST_WORDS > area.size:
                at = start
                break
            start = -1
            ends = clear_lowest(ends)
        n_inside = popcount(ends)
        if n + MOST_WORDS * (n_inside + GROUP) <= area.size:
            _put_inside(kind, area, n, starts, ends, n_inside, first_pfn + base)
            n += n_inside * (MOST_WORDS if kind == Runs.DESC_V11 else 1)
            n_records += n_inside
        else:
            while ends != ZERO and at < 0:
                first, end = base + trailing_zeros(starts), base + trailing_zeros(ends)
                n = put_run(kind, area, n, first_pfn + first, end - first)
                n_records += 1
                starts, ends = clear_lowest(starts), clear_lowest(ends)
                at = end if n + MOST_WORDS > area.size else -1
        if at < 0 and bits >> TOP != ZERO:
            start = base + bit_length(~bits)
    if at < 0:
        at = words.size * WORD
        if start >= 0:  # a run to the last bit
            n, more, at = _put_long(kind, area, n, first_pfn, start, at)
            n_records += more
    state["word"] = at >> 6
    state["bit"] = at & 63
    state["n_records"] += n_records
    if n_records == 0:
        return 0
    if header > 0:
        area[0] = np.uint64(n_records)
    return n


@kernel
def _read_second(kind, word, second):
    """Return the pages that a record of two words says, 0 where a bit means nothing."""
    if kind == Runs.DESC_V11:
        n_bytes = second & np.uint64(0xFFFFFFFF)
        wrong = second != n_bytes or (word | n_bytes) & LOW_BITS != ZERO
        return 0 if wrong else np.int64(n_bytes >> np.uint64(12))
    return 0 if second >> np.uint64(PFN_BITS) != ZERO else np.int64(second)


@kernel
def decode_runs(kind, words, n_bytes, ranges, faults):
    """Turn one buffer into ranges, trusting nothing; as `bitmap_v4.decode_records`.

    A record that is empty or ends beyond the page numbers is counted and skipped; one whose second
    word is missing, or a number of records that is not theirs, ends the buffer.
    """
    size = n_bytes // 8
    if n_bytes % 8 != 0 or n_bytes == 0:
        record_fault(faults, BUFFER_LENGTH, 8 * size)
        return 0
    n, at, n_records = 0, 0, size
    if kind == Runs.CHUNK_V7:
        at = 1
        if words[0] >= np.uint64(size):
            record_fault(faults, RECORD_COUNT, 0)
            return 0
        n_records = np.int64(words[0])
    while at < size and n_records > 0:
        here, word = at, words[at]
        n_records -= 1
        at += 1
        if kind == Runs.CONT_PAGES:
            pfn, n_pages = np.int64(word & np.uint64(0xFFFFFFFF)), np.int64(word >> np.uint64(32))
        else:
            pfn, n_pages = np.int64(word >> np.uint64(12)), np.int64(word & LOW_BITS)
            if kind == Runs.DESC_V11 or n_pages == 0:
                if at == size:
                    record_fault(faults, BUFFER_LENGTH, 8 * here)
                    return n
                n_pages = _read_second(kind, word, words[at])
                at += 1
        bits = 32 if kind == Runs.CONT_PAGES else PFN_BITS
        if n_pages == 0 or pfn + n_pages > np.int64(1) << bits:
            record_fault(faults, RECORD_RANGE, 8 * here)
            continue
        ranges[n, 0] = pfn
        ranges[n, 1] = n_pages
        n += 1
    if kind == Runs.CHUNK_V7 and (at < size or n_records > 0):
        record_fault(faults, RECORD_COUNT, 8 * at)
    return n
