"""The bitmap driver as it was posted in Nov 2016 (v4 4/7), defects included, for study.

A resumable state machine: `next_message` works until the driver sends, the caller sends,
`after_send` does what the driver does then: it frees every bitmap but the first, also in the
middle of a walk. Where a real guest would then read freed memory or follow a NULL pointer, the
machine stops and its state says why.
"""

from __future__ import annotations

import numpy as np

from .bitmap import FULL, ONE, WORD, ZERO
from .bitmap_v4 import (
    BITMAP_WORDS,
    PAGE_SHIFT_4K,
    RECORD_WORDS,
    RESERVED_WORDS,
    WORD_BYTES,
    make_head,
)
from .compile import kernel
from .intrinsics import trailing_zeros

BITMAP_PAGES = BITMAP_WORDS * WORD

STATE = np.dtype(
    [
        ("n_bitmaps", np.int64),  # bitmaps not freed
        ("limit", np.int64),  # pages of a window
        ("min_pfn", np.int64),  # the walk's first page
        ("max_pfn", np.int64),  # its exclusive end
        ("start", np.int64),  # the window's first page
        ("end", np.int64),  # the window's highest page
        ("index", np.int64),  # the bitmap,
        ("position", np.int64),  # bit,
        ("run", np.int64),  # and run at hand
        ("used", np.int64),  # record words not sent
        ("phase", np.int64),  # what comes next
        ("n_sends", np.int64),  # messages sent
        ("n_walked", np.int64),  # list entries read
        ("fault", np.int64),  # what went wrong,
        ("fault_pfn", np.int64),  # and at which page
        ("n_records", np.int64),  # records of this walk
    ]
)

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
    """Begin to walk `pages`; records that a failed send left in the area stay there."""
    low = pages[0]
    high = pages[0]
    for i in range(pages.size):
        low = min(low, pages[i])
        high = max(high, pages[i])
    state["n_bitmaps"] = n_bitmaps
    state["limit"] = n_bitmaps * BITMAP_PAGES
    state["min_pfn"] = np.int64(low) // WORD * WORD
    # Rounded up and then taken as an exclusive end: a multiple of 64 is left out.
    state["max_pfn"] = (np.int64(high) + WORD - 1) // WORD * WORD
    state["start"] = state["min_pfn"]
    state["phase"] = AT_WINDOW
    state["n_records"] = 0


@kernel
def after_send(state):
    """Do what the driver does when its message was used: forget it, free the bitmaps."""
    state["used"] = 0
    state["n_sends"] += 1
    state["n_bitmaps"] = 1


@kernel
def _fail(state, kind, pfn):
    state["fault"] = kind
    state["fault_pfn"] = pfn


@kernel
def _set_window_bits(state, walked, bitmaps):
    """Walk the whole list, the newest page first; True when a page lies in the window.

    A window without pages moves the start to the next one that has some, all at once: walked
    one by one, two pages 2**51 apart took a minute. The entries that the driver would have
    read meanwhile are counted.
    """
    start = state["start"]
    limit = state["limit"]
    bitmaps[: state["n_bitmaps"] * BITMAP_WORDS] = ZERO
    room = state["n_bitmaps"] * BITMAP_PAGES
    highest = np.int64(-1)
    following = state["max_pfn"] - start
    for i in range(walked.size - 1, -1, -1):
        into = np.int64(walked[i]) - start
        state["n_walked"] += 1
        if into < 0 or into >= limit:
            following = min(following, into) if into > 0 else following
            continue
        if into >= room:
            _fail(state, SET_BIT_NULL, start + into)
            state["index"] = into // BITMAP_PAGES
            return False
        bitmaps[into >> 6] |= ONE << np.uint64(into & 63)
        highest = max(highest, into)
    state["end"] = start + highest
    if highest >= 0:
        return True
    n_empty = max(1, following // limit)
    state["n_walked"] += (n_empty - 1) * walked.size
    state["start"] += n_empty * limit
    return False


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
    used = state["used"]
    if used + n_words > RECORD_WORDS:
        return False
    area[used] = head
    if n_words == 2:
        area[used + 1] = bits
    state["used"] = used + n_words
    state["n_records"] += 1
    return True


@kernel
def _put_run(state, bitmaps, area, run, end):
    """Append the records of one run of set bits: head word, tail word, blocks between."""
    first_word = state["index"] * BITMAP_WORDS
    first_pfn = state["start"] + state["index"] * BITMAP_PAGES
    begin = run // WORD
    after = (end + WORD - 1) // WORD  # words [begin, after) hold the run
    fits = True
    if run % WORD != 0:
        head = make_head(first_pfn + begin * WORD, PAGE_SHIFT_4K, WORD_BYTES)
        fits = _put(state, area, head, bitmaps[first_word + begin], 2)
        begin += 1
    if end % WORD != 0 and after > begin:
        after -= 1
        head = make_head(first_pfn + after * WORD, PAGE_SHIFT_4K, WORD_BYTES)
        fits = _put(state, area, head, bitmaps[first_word + after], 2) and fits
    pfn = first_pfn + begin * WORD
    n_pages = (after - begin) * WORD
    order = 30
    while n_pages > 0:
        while (1 << order) > n_pages:
            order -= 1
        head = make_head(pfn, order + PAGE_SHIFT_4K, 0)
        fits = _put(state, area, head, ZERO, 1) and fits
        pfn += 1 << order
        n_pages -= 1 << order
    if not fits:
        _fail(state, OVERRUN, first_pfn + run)


@kernel
def _walk_bitmap(state, bitmaps, area):
    """Walk the bitmap at hand; True when the driver sends in the middle of it."""
    n_pages = state["end"] - state["start"] + 1
    n_words = (n_pages + WORD - 1) // WORD - state["index"] * BITMAP_WORDS
    end = min(n_words, BITMAP_WORDS) * WORD
    first_word = state["index"] * BITMAP_WORDS
    while True:
        if state["phase"] != AFTER_SEND:
            if state["position"] >= end:
                return False
            state["run"] = _next_bit(bitmaps, first_word, ZERO, state["position"], end)
            if state["used"] + RESERVED_WORDS > RECORD_WORDS:
                state["phase"] = AFTER_SEND
                return True
        state["phase"] = IN_BITMAP
        run = state["run"]
        if run >= end:
            return False
        if state["index"] >= state["n_bitmaps"]:
            _fail(state, WALK_FREED, state["start"] + state["index"] * BITMAP_PAGES + run)
            return False
        stop = _next_bit(bitmaps, first_word, FULL, run, end)
        _put_run(state, bitmaps, area, run, stop)
        if state["fault"] != 0:
            return False
        state["position"] = (stop + WORD - 1) // WORD * WORD


@kernel
def next_message(state, walked, bitmaps, area):
    """Go on until the driver sends; return the words of `area` to send, 0 at the end or at a fault.

    Called after `begin_walk`, and after each send and its `after_send` (without, where the send
    failed). `walked` (uint64) is the list that the driver walks, oldest page first: on inflation
    the whole balloon, on deflation the pages that leave. `bitmaps` is uint64 of shape (n * 4096,).
    """
    while state["fault"] == 0:
        phase = state["phase"]
        if phase == AT_WINDOW:
            if state["start"] >= state["max_pfn"]:
                return 0
            if _set_window_bits(state, walked, bitmaps):
                state["index"] = 0
                state["phase"] = AT_BITMAP
        elif phase == AT_BITMAP:
            state["position"] = 0
            if state["start"] + state["index"] * BITMAP_PAGES > state["end"]:
                state["phase"] = AT_LAST_SEND
                if state["used"] > 0:
                    return state["used"]
            elif state["index"] >= state["n_bitmaps"]:
                _fail(state, WALK_NULL, state["start"] + state["index"] * BITMAP_PAGES)
            else:
                state["phase"] = IN_BITMAP
        elif phase == AT_LAST_SEND:
            state["start"] += state["limit"]
            state["phase"] = AT_WINDOW
        elif _walk_bitmap(state, bitmaps, area):
            return state["used"]
        elif state["fault"] == 0:
            state["index"] += 1
            state["phase"] = AT_BITMAP
    return 0
