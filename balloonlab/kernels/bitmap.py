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
TWO = np.uint64(2)
THREE = np.uint64(3)
SIX = np.uint64(6)
SIGN = ONE << TOP
GROUP = 4
NEAR_WORDS = 4  # words that a block is looked for in
SURVEY_WORDS = 1 + NEAR_WORDS  # what `survey` keeps of a block
RAGGED = FULL  # no page number: those have 52 bits


@kernel
def read_once(words):
    """Fold a uint64 array into one word: the cost of reading it, for comparison."""
    folded = ZERO
    for i in range(words.size):
        folded ^= words[i]
    return folded


@kernel
def bit_length(word):
    """Return the number of the highest set bit of a uint64, from 1; 0 for zero."""
    for shift in (1, 2, 4, 8, 16, 32):
        word |= word >> np.uint64(shift)
    return popcount(word)


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
def _gather(block, lowest_word, words):
    """Set the bits of a block in four words (uint64), the first of number `lowest_word`.

    Return whether its pages are all in them, and differ. In vectors, without a branch: 0.6 ns a
    page, where one bit after the other takes 1.2.
    """
    first = second = third = fourth = ZERO
    for j in range(WORD):
        bit, word = ONE << (block[j] & TOP), block[j] >> SIX
        first |= bit * np.uint64(word == lowest_word)
        second |= bit * np.uint64(word == lowest_word + ONE)
        third |= bit * np.uint64(word == lowest_word + TWO)
        fourth |= bit * np.uint64(word == lowest_word + THREE)
    words[0], words[1], words[2], words[3] = first, second, third, fourth
    return popcount(first) + popcount(second) + popcount(third) + popcount(fourth) == WORD


@kernel
def _extremes_near(base, words):
    """Return the lowest and the highest page of what `_gather` set."""
    first, last = 0, NEAR_WORDS - 1
    while words[first] == ZERO:
        first += 1
    while words[last] == ZERO:
        last -= 1
    low = first * WORD + trailing_zeros(words[first])
    return base + np.uint64(low), base + np.uint64(last * WORD + bit_length(words[last]) - 1)


@kernel
def _survey_ragged(block, words):
    """Look at a block that is not contiguous; return its mark, its lowest and its highest page.

    `words` (uint64, shape (4,)) receives its bits where those are near.
    """
    if block.size == WORD:
        low, high = min(block[0], block[WORD - 1]), max(block[0], block[WORD - 1])
        base = low & ~TOP
        if high - base < np.uint64(NEAR_WORDS * WORD) and _gather(block, base >> SIX, words):
            low, high = _extremes_near(base, words)
            return base | SIGN, low, high
    low, high = _extremes(block)
    return RAGGED, low, high


@kernel
def survey_words(n_pages):
    """Return how many words `survey` needs for as many pages."""
    return (n_pages + WORD - 1) // WORD * SURVEY_WORDS


@kernel
def survey(pfns, blocks):
    """Find the lowest and the highest page, and what each block of 64 pages looks like.

    `pfns`: uint64, shape (n,), n > 0. `blocks`: uint64, of `survey_words` of n, receives a mark
    per block, then four words per block, so that `set_bits` reads few pages again. A mark is the
    lowest page of 64 that are consecutive, up or down; or, with the top bit set, the page from
    which on the four words have the bits of all of them; or `RAGGED`. Marks stand by themselves:
    in a row with their words they cost contiguous pages a tenth more, which is memory traffic.
    """
    low = pfns[0]
    high = pfns[0]
    n_blocks = blocks.size // SURVEY_WORDS
    for b in range(n_blocks):
        block = pfns[b * WORD : (b + 1) * WORD]
        bottom = _lowest_of_contiguous(block) if block.size == WORD else RAGGED
        if bottom == RAGGED:
            words = blocks[n_blocks + NEAR_WORDS * b : n_blocks + NEAR_WORDS * (b + 1)]
            blocks[b], bottom, top = _survey_ragged(block, words)
        else:
            blocks[b], top = bottom, bottom + TOP
        low = min(low, bottom)
        high = max(high, bottom, top)  # a block may wrap at 2**64: its top is then small
    return low, high


@kernel
def _set_contiguous(bit, words):
    word, shift = bit >> SIX, bit & TOP
    words[word] |= FULL << shift
    if shift != ZERO:
        words[word + ONE] |= FULL >> (np.uint64(64) - shift)


@kernel
def _set_ragged(block, base, words):
    """Set bit after bit.

    The quarters of a block take turns: pages of a sorted list share a word, which then waits for
    its own last write (0.9 ns a page instead of 1.4, where an eighth of the pages is set). Numbers
    of words are unsigned: no test for one from the end.
    """
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
def set_bits(pfns, blocks, first_pfn, words):
    """Set the bit of every page in `words` (uint64); the caller has cleared them.

    `pfns` (uint64) come in any order, all within the span of `words`; `blocks` is as `survey`
    left it; `first_pfn` is the page of bit 0, a multiple of 64.
    """
    base = np.uint64(first_pfn)
    n_blocks = blocks.size // SURVEY_WORDS
    for b in range(n_blocks):
        found = blocks[b]
        if found == RAGGED:
            _set_ragged(pfns[b * WORD : (b + 1) * WORD], base, words)
        elif found < SIGN:
            _set_contiguous(found - base, words)
        else:
            word = ((found ^ SIGN) - base) >> SIX
            for k in range(NEAR_WORDS):
                bits = blocks[n_blocks + NEAR_WORDS * b + k]
                if bits != ZERO:  # there may be no word so far up
                    words[word + np.uint64(k)] |= bits


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
