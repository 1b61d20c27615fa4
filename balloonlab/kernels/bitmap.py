"""Page bitmaps: pages to bits, and bits to runs of pages.

Bit ``i`` of word ``w``, least significant first, stands for page
``first_pfn + 64 * w + i`` (seed patch; ``numpy.packbits(bitorder="little")``).
"""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .intrinsics import clear_lowest, popcount, trailing_zeros

WORD = 64
FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
ONE = np.uint64(1)
ZERO = np.uint64(0)
TOP = np.uint64(63)
SIX = np.uint64(6)
SIGN = ONE << TOP
GROUP = 4
RAGGED = FULL  # no page number: those have 52 bits


@kernel
def read_once(words):
    """Fold a uint64 array into one word: the cost of reading it, for comparison."""
    folded = ZERO
    for i in range(words.size):
        folded ^= words[i]
    return folded


@kernel
def _ascends(block):
    first = block[0]
    differs = ZERO
    for j in range(WORD):
        differs |= block[j] ^ (first + np.uint64(j))
    return differs == ZERO


@kernel
def _descends(block):
    first = block[0]
    differs = ZERO
    for j in range(WORD):
        differs |= (block[j] + np.uint64(j)) ^ first
    return differs == ZERO


@kernel
def _lowest_of_contiguous(block):
    """Return the first page of a block that ascends or descends one by one; else `RAGGED`.

    The block is compared as a whole: without a branch inside, LLVM makes vector code of it
    that runs as fast as memory is read (0.3 ns per page; bit by bit 1.5). A look at the ends of the
    block first, or one more condition beside the calls, costs more than it saves.
    """
    if block[1] > block[0]:
        return block[0] if _ascends(block) else RAGGED
    return block[WORD - 1] if _descends(block) else RAGGED


@kernel
def _extremes(block):
    """Return the least and the greatest of a block.

    As int64 with the top bit turned, which order as uint64 do: vectors compare those alone.
    """
    low = np.int64(block[0] ^ SIGN)
    high = low
    for j in range(block.size):
        page = np.int64(block[j] ^ SIGN)
        low = min(low, page)
        high = max(high, page)
    return np.uint64(low) ^ SIGN, np.uint64(high) ^ SIGN


@kernel
def survey(pfns, lowest):
    """Find the lowest and the highest page, and which blocks of 64 are contiguous.

    `pfns`: uint64, shape (n,), n > 0. `lowest`: uint64, shape (ceil(n / 64),), receives the
    lowest page of each block that is 64 consecutive pages, up or down, and `RAGGED` for the
    others: `set_bits` reads only those again.
    """
    low = pfns[0]
    high = pfns[0]
    for b in range(lowest.size):
        block = pfns[b * WORD : (b + 1) * WORD]
        bottom = _lowest_of_contiguous(block) if block.size == WORD else RAGGED
        lowest[b] = bottom
        if bottom == RAGGED:
            bottom, top = _extremes(block)
        else:
            top = bottom + TOP
        low = min(low, bottom)
        high = max(high, bottom, top)  # a block may wrap at 2**64: its top is then small
    return low, high


@kernel
def set_bits(pfns, lowest, first_pfn, words):
    """Set the bit of every page in `words` (uint64); the caller has cleared them.

    `pfns` (uint64) come in any order, all within the span of `words`; `lowest` is as `survey`
    left it; `first_pfn` is the page of bit 0, a multiple of 64.

    The quarters of a ragged block take turns: pages of a sorted list share a word, which then
    waits for its own last write (0.9 ns a page instead of 1.4, where an eighth of the pages is
    set). Numbers of words are unsigned: no test for one from the end.
    """
    base = np.uint64(first_pfn)
    for b in range(lowest.size):
        if lowest[b] != RAGGED:
            bit = lowest[b] - base
            word, shift = bit >> SIX, bit & TOP
            words[word] |= FULL << shift
            if shift != ZERO:
                words[word + ONE] |= FULL >> (np.uint64(64) - shift)
            continue
        block = pfns[b * WORD : (b + 1) * WORD]
        if block.size == WORD:
            for j in range(WORD // GROUP):
                for k in range(GROUP):
                    bit = block[k * (WORD // GROUP) + j] - base
                    words[bit >> SIX] |= ONE << (bit & TOP)
        else:
            for j in range(block.size):
                bit = block[j] - base
                words[bit >> SIX] |= ONE << (bit & TOP)


@kernel
def count_bits(words):
    """Count the set bits of a uint64 array."""
    total = 0
    for i in range(words.size):
        total += popcount(words[i])
    return total


@kernel
def count_runs(words):
    """Count the runs of set bits of a uint64 array."""
    total = 0
    below = ZERO
    for i in range(words.size):
        total += popcount(words[i] & ~((words[i] << ONE) | below))
        below = words[i] >> TOP
    return total


@kernel
def find_runs(words, first_pfn, runs):
    """Write every run of set bits of `words` (uint64) as (start, length); return their number.

    `first_pfn` is the page of bit 0; `runs` is int64 of shape (>= count_runs(words) + 4, 2).
    Starts and ends of a word are written in groups of four without a test in between: 1.8 ns a
    run in a half-full random bitmap, 3.7 one at a time. What a group writes too much is
    overwritten by the next.
    """
    n_starts = 0
    n_ends = 0
    below = ZERO
    for i in range(words.size):
        shifted = (words[i] << ONE) | below
        below = words[i] >> TOP
        base = first_pfn + i * WORD
        starts = words[i] & ~shifted
        row = n_starts
        n_starts += popcount(starts)
        while starts != ZERO:
            for _ in range(GROUP):
                runs[row, 0] = base + trailing_zeros(starts)
                starts = clear_lowest(starts)
                row += 1
        ends = shifted & ~words[i]
        row = n_ends
        n_ends += popcount(ends)
        while ends != ZERO:
            for _ in range(GROUP):
                runs[row, 1] = base + trailing_zeros(ends) - runs[row, 0]
                ends = clear_lowest(ends)
                row += 1
    if below != ZERO:
        runs[n_ends, 1] = first_pfn + words.size * WORD - runs[n_ends, 0]
    return n_starts


@kernel
def append_runs(word, first_pfn, ranges, n, joinable):
    """Append the runs of one bitmap word to `ranges`; return their new number.

    Rows of `ranges` (int64) are (start_pfn, n_pages); row `n` is the next to be written, and
    rows from `joinable` on may grow when a run continues them. `first_pfn` is the page of bit 0.
    """
    pfn = first_pfn
    left = word
    while left != ZERO:
        skip = trailing_zeros(left)
        left >>= np.uint64(skip)
        pfn += skip
        length = trailing_zeros(~left)
        if n > joinable and ranges[n - 1, 0] + ranges[n - 1, 1] == pfn:
            ranges[n - 1, 1] += length
        else:
            ranges[n, 0] = pfn
            ranges[n, 1] = length
            n += 1
        pfn += length
        left = ZERO if length == WORD else left >> np.uint64(length)
    return n
