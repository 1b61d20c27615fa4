"""The bitmap driver as it was posted in Nov 2016 (v4 4/7), defects included, for study.

A resumable state machine: `next_message` works until the driver sends, the caller
sends, `after_send` does what the driver does then: it frees every bitmap but the
first, also in the middle of a walk. Where a real guest would then read freed
memory or follow a NULL pointer, the machine stops and says so in its state.
"""

from __future__ import annotations

import numpy as np

from .bitmap import FULL, ONE, WORD, ZERO
from .bitmap_v4 import (
    BITMAP_WORDS,
    PAGE_SHIFT_4K,
    RECORD_WORDS,
    RESERVED_WORDS,
    WORD_RECORD,
)
from .compile import kernel
from .intrinsics import trailing_zeros

BITMAP_PAGES = BITMAP_WORDS * WORD

(N_BITMAPS, LIMIT, MIN_PFN, MAX_PFN, START, END, INDEX, POSITION, RUN, USED) = range(10)
(PHASE, SENDS, WALKED, FAULT, FAULT_PFN, N_RECORDS) = range(10, 16)
N_STATE = 16
"""Cells of the state: bitmaps not freed; pages of a window; the walk's first page and its
exclusive end; the window's first and highest page; the bitmap, bit and run at hand; record
words not sent; what comes next; messages sent; list entries looked at; what went wrong, and
at which page; records of this walk."""

AT_WINDOW, AT_BITMAP, IN_BITMAP, AFTER_SEND, AT_LAST_SEND = range(5)

SET_BIT_NULL, WALK_NULL, WALK_FREED, OVERRUN = range(1, 5)
FAULTS = {
    SET_BIT_NULL: "a bit is set in a bitmap that was freed: its pointer is NULL by now",
    WALK_NULL: "a bitmap is walked that was freed: its pointer is NULL by now",
    WALK_FREED: "the bitmap being walked is freed memory: sending freed it",
    OVERRUN: "records are written beyond the record area",
}


@kernel
def begin_walk(state, pages, n_bitmaps):
    """Prepare to tell `pages`; records that a failed send left in the area stay there."""
    low = pages[0]
    high = pages[0]
    for i in range(pages.size):
        low = min(low, pages[i])
        high = max(high, pages[i])
    state[N_BITMAPS] = n_bitmaps
    state[LIMIT] = n_bitmaps * BITMAP_PAGES
    state[MIN_PFN] = np.int64(low) // WORD * WORD
    # Rounded up and then taken as an exclusive end: a multiple of 64 is left out.
    state[MAX_PFN] = (np.int64(high) + WORD - 1) // WORD * WORD
    state[START] = state[MIN_PFN]
    state[PHASE] = AT_WINDOW
    state[N_RECORDS] = 0


@kernel
def after_send(state):
    """Do what the driver does when its message was used: forget it, free the bitmaps."""
    state[USED] = 0
    state[SENDS] += 1
    state[N_BITMAPS] = 1


@kernel
def _fail(state, kind, pfn):
    state[FAULT] = kind
    state[FAULT_PFN] = pfn


@kernel
def _set_window_bits(state, walked, bitmaps):
    """Walk the whole list, the newest page first; True when a page lies in the window."""
    start = state[START]
    limit = state[LIMIT]
    bitmaps[: state[N_BITMAPS] * BITMAP_WORDS] = ZERO
    room = state[N_BITMAPS] * BITMAP_PAGES
    highest = np.int64(-1)
    for i in range(walked.size - 1, -1, -1):
        into = np.int64(walked[i]) - start
        state[WALKED] += 1
        if into < 0 or into >= limit:
            continue
        if into >= room:
            _fail(state, SET_BIT_NULL, start + into)
            state[INDEX] = into // BITMAP_PAGES
            return False
        bitmaps[into >> 6] |= ONE << np.uint64(into & 63)
        highest = max(highest, into)
    state[END] = start + highest
    return highest >= 0


@kernel
def _next_bit(bitmaps, first_word, flip, position, end):
    """Bit number in a bitmap of the next set bit (clear with `flip` FULL), else `end`."""
    while position < end:
        left = (bitmaps[first_word + (position >> 6)] ^ flip) >> np.uint64(position & 63)
        if left != ZERO:
            return min(position + trailing_zeros(left), end)
        position = (position // WORD + 1) * WORD
    return end


@kernel
def _put(state, area, head, bits, n_words):
    """Append a record; False where it does not fit."""
    used = state[USED]
    if used + n_words > RECORD_WORDS:
        return False
    area[used] = head
    if n_words == 2:
        area[used + 1] = bits
    state[USED] = used + n_words
    state[N_RECORDS] += 1
    return True


@kernel
def _put_run(state, bitmaps, area, run, end):
    """Append the records of one run of set bits: head word, tail word, blocks between."""
    first_word = state[INDEX] * BITMAP_WORDS
    first_pfn = state[START] + state[INDEX] * BITMAP_PAGES
    begin = run // WORD
    after = (end + WORD - 1) // WORD  # words [begin, after) hold the run
    fits = True
    if run % WORD != 0:
        head = np.uint64(first_pfn + begin * WORD) | WORD_RECORD
        fits = _put(state, area, head, bitmaps[first_word + begin], 2)
        begin += 1
    if end % WORD != 0 and after > begin:
        after -= 1
        head = np.uint64(first_pfn + after * WORD) | WORD_RECORD
        fits = _put(state, area, head, bitmaps[first_word + after], 2) and fits
    pfn = first_pfn + begin * WORD
    n_pages = (after - begin) * WORD
    order = 30
    while n_pages > 0:
        while (1 << order) > n_pages:
            order -= 1
        head = np.uint64(pfn) | np.uint64((order + PAGE_SHIFT_4K) << 52)
        fits = _put(state, area, head, ZERO, 1) and fits
        pfn += 1 << order
        n_pages -= 1 << order
    if not fits:
        _fail(state, OVERRUN, first_pfn + run)


@kernel
def _walk_bitmap(state, bitmaps, area):
    """Walk the bitmap at hand; True when the driver sends in the middle of it."""
    told = state[END] - state[START] + 1
    n_words = (told + WORD - 1) // WORD - state[INDEX] * BITMAP_WORDS
    end = min(n_words, BITMAP_WORDS) * WORD
    first_word = state[INDEX] * BITMAP_WORDS
    while True:
        if state[PHASE] != AFTER_SEND:
            if state[POSITION] >= end:
                return False
            state[RUN] = _next_bit(bitmaps, first_word, ZERO, state[POSITION], end)
            if state[USED] + RESERVED_WORDS > RECORD_WORDS:
                state[PHASE] = AFTER_SEND
                return True
        state[PHASE] = IN_BITMAP
        run = state[RUN]
        if run >= end:
            return False
        if state[INDEX] >= state[N_BITMAPS]:
            _fail(state, WALK_FREED, state[START] + state[INDEX] * BITMAP_PAGES + run)
            return False
        stop = _next_bit(bitmaps, first_word, FULL, run, end)
        _put_run(state, bitmaps, area, run, stop)
        if state[FAULT] != 0:
            return False
        state[POSITION] = (stop + WORD - 1) // WORD * WORD


@kernel
def next_message(state, walked, bitmaps, area):
    """Go on until the driver sends.

    Parameters
    ----------
    state : int64 array, shape (N_STATE,)
        After `begin_walk`, and after each send `after_send` unless the send failed.
    walked : uint64 array
        The list that the driver walks, oldest page first: on inflation the whole
        balloon, on deflation the pages that leave.
    bitmaps : uint64 array, shape (n * 4096,)
    area : uint64 array, shape (4096,)
        The record area.

    Returns
    -------
    int
        Words of `area` to send; 0 at the end or where ``state[FAULT]`` is set.
    """
    while state[FAULT] == 0:
        phase = state[PHASE]
        if phase == AT_WINDOW:
            if state[START] >= state[MAX_PFN]:
                return 0
            if _set_window_bits(state, walked, bitmaps):
                state[INDEX] = 0
                state[PHASE] = AT_BITMAP
            elif state[FAULT] == 0:
                state[START] += state[LIMIT]
        elif phase == AT_BITMAP:
            state[POSITION] = 0
            if state[START] + state[INDEX] * BITMAP_PAGES > state[END]:
                state[PHASE] = AT_LAST_SEND
                if state[USED] > 0:
                    return state[USED]
            elif state[INDEX] >= state[N_BITMAPS]:
                _fail(state, WALK_NULL, state[START] + state[INDEX] * BITMAP_PAGES)
            else:
                state[PHASE] = IN_BITMAP
        elif phase == AT_LAST_SEND:
            state[START] += state[LIMIT]
            state[PHASE] = AT_WINDOW
        elif _walk_bitmap(state, bitmaps, area):
            return state[USED]
        elif state[FAULT] == 0:
            state[INDEX] += 1
            state[PHASE] = AT_BITMAP
    return 0
