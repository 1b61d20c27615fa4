"""The plan of ``adaptive``: which of its five ways each word of a bitmap goes.

`plan` walks a bitmap once and keeps for each of the five the fewest bytes that lead up to a word;
then it goes back along the best. `balloonlab.kernels.adaptive` has what the ways are on the wire.
"""

from __future__ import annotations

import numpy as np

from .bitmap import FULL, ONE, TOP, WORD, ZERO
from .compile import kernel
from .intrinsics import popcount

RUN, RUNS, SINGLE, BITS, PFNS = range(5)
NEW, EMPTY = 0x80, 0xFF  # in a plan: a segment begins; the word is 0

HEAD_BYTES = 8
RUN_BYTES = 8  # of a RUN, which is all head
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
