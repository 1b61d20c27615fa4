"""The seed's format: bitmap words for ragged ends, power-of-two blocks between.

One kick carries an 8-byte response header and up to 32 KiB of records; a record
is a 64-bit head (start_pfn 52 bits, page_shift 6, bmap_len 6), followed by one
bitmap word where bmap_len is 8. Layout: patches 2/7 and 4/7 of v4, Nov 2016.
"""

from __future__ import annotations

import numpy as np

from .bitmap import FULL, ONE, WORD, ZERO, append_runs
from .compile import kernel
from .faults import (
    BMAP_LEN,
    BUFFER_LENGTH,
    COMMAND,
    DATA_LEN,
    PAGE_SHIFT,
    RECORD_RANGE,
    record_fault,
)

RECORD_WORDS = 4096  # the record area: 32 KiB
RESERVED_WORDS = 64  # it is sent when fewer words than these are left
BITMAP_WORDS = 4096  # one bitmap: 32 KiB, 262,144 pages, 1 GiB of guest memory
MAX_BITMAPS = 32
WINDOW_WORDS = MAX_BITMAPS * BITMAP_WORDS  # 32 GiB, 1 MiB of bitmap; most guests need only one
PFN_BITS = 52
PAGE_SHIFT_4K = 12
WORD_BYTES = 8  # bmap_len of a record with one bitmap word
HEADER_BYTES = 8


@kernel
def make_head(pfn, page_shift, bmap_len):
    """Make the head of a record: start_pfn, page_shift and bmap_len in one uint64."""
    shift = np.uint64(page_shift) << np.uint64(52)
    return np.uint64(pfn) | shift | (np.uint64(bmap_len) << np.uint64(58))


@kernel
def split_head(head):
    """Split the head of a record into (start_pfn, page_shift, bmap_len), all int64."""
    pfn = np.int64(head & np.uint64((1 << PFN_BITS) - 1))
    page_shift = np.int64((head >> np.uint64(52)) & np.uint64(63))
    return pfn, page_shift, np.int64(head >> np.uint64(58))


@kernel
def put_blocks(area, n, pfn, n_pages):
    """Split a 64-aligned stretch into powers of two, largest first."""
    order = 0
    while (2 << order) <= n_pages:
        order += 1
    while n_pages > 0:
        while (1 << order) > n_pages:
            order -= 1
        area[n] = make_head(pfn, order + PAGE_SHIFT_4K, 0)
        n += 1
        pfn += 1 << order
        n_pages -= 1 << order
    return n


@kernel
def fill_records(words, first_pfn, window_words, state, area):
    """Write records until the area is due to be sent; return its words, 0 when there are no more.

    The patch walks runs of set bits. A word that a run starts or ends in is sent whole, and the
    walk goes on behind it: every word is read once, word by word. What stays visible of the
    runs: a run never crosses one of the 32 KiB bitmaps, the room left is checked once per run
    and not once per record, and the end of a window always sends.

    `words` (uint64) is a bitmap over one or more windows of `window_words` each, `first_pfn`
    (a multiple of 64) the page of its bit 0, `area` uint64 of shape (RECORD_WORDS,). Of `state`
    ``word`` is the next word to read, 0 at the start; records are added to ``n_records``.
    """
    word = state["word"]
    n = 0
    n_records = 0
    while word < words.size:
        if n > 0 and word % window_words == 0:
            break
        bits = words[word]
        if bits == ZERO:
            word += 1
            continue
        if n + RESERVED_WORDS > RECORD_WORDS:
            break
        limit = min(words.size, (word // BITMAP_WORDS + 1) * BITMAP_WORDS)
        if bits != FULL:
            area[n] = make_head(first_pfn + word * WORD, PAGE_SHIFT_4K, WORD_BYTES)
            area[n + 1] = bits
            n += 2
            n_records += 1
            word += 1
            # A run goes on from here only when it is the word's one run and
            # reaches its top; a later run of the word is found anew.
            reaches_top = (bits | (bits - ONE)) == FULL
            if not reaches_top or word == limit or words[word] & ONE == ZERO:
                continue
        end = word
        while end < limit and words[end] == FULL:
            end += 1
        after = end
        if end < limit and words[end] & ONE != ZERO:
            area[n] = make_head(first_pfn + end * WORD, PAGE_SHIFT_4K, WORD_BYTES)
            area[n + 1] = words[end]
            n += 2
            n_records += 1
            after += 1
        if end > word:
            before = n
            n = put_blocks(area, n, first_pfn + word * WORD, (end - word) * WORD)
            n_records += n - before
        word = after
    state["word"] = word
    state["n_records"] += n_records
    return n


@kernel
def decode_records(words, n_bytes, ranges, faults):
    """Turn one buffer (header and records) into ranges, trusting nothing; return their number.

    A record that cannot be right is counted in `faults` and skipped; where its length is in
    doubt the rest of the buffer is skipped, too. `words` (uint64) is the host's own copy of the
    buffer, `ranges` int64 of shape (>= 4 * n_bytes, 2): (start_pfn, n_pages) in wire order.
    """
    if n_bytes < 8:
        record_fault(faults, BUFFER_LENGTH, 0)
        return 0
    header = words[0]
    data_len = np.int64(header >> np.uint64(32))
    if header & np.uint64(0xFF) != ZERO:
        record_fault(faults, COMMAND, 0)
        return 0
    if data_len > n_bytes - 8 or data_len % 8 != 0:
        record_fault(faults, DATA_LEN, 0)
        return 0
    end = 1 + data_len // 8
    n = 0
    at = 1
    while at < end:
        pfn, shift, bmap_len = split_head(words[at])
        bmap_words = bmap_len // 8
        if bmap_len % 8 != 0 or at + 1 + bmap_words > end:
            record_fault(faults, BMAP_LEN, 8 * at)
            return n
        if shift < PAGE_SHIFT_4K or (bmap_words > 0 and shift != PAGE_SHIFT_4K):
            record_fault(faults, PAGE_SHIFT, 8 * at)
        elif bmap_words == 0:
            n_pages = 1 << (shift - PAGE_SHIFT_4K)
            if pfn + n_pages > 1 << PFN_BITS:
                record_fault(faults, RECORD_RANGE, 8 * at)
            else:
                ranges[n, 0] = pfn
                ranges[n, 1] = n_pages
                n += 1
        elif pfn + bmap_words * WORD > 1 << PFN_BITS:
            record_fault(faults, RECORD_RANGE, 8 * at)
        else:
            joinable = n
            for k in range(bmap_words):
                n = append_runs(words[at + 1 + k], pfn + k * WORD, ranges, n, joinable)
        at += 1 + bmap_words
    return n
