"""Whole page sets: every message encoded, or decoded, without a queue in between."""

from __future__ import annotations

import numpy as np

from .bitmap import FULL, ONE, WORD, ZERO
from .compile import kernel
from .encode import begin, message_pages, next_message
from .formats import decode
from .intrinsics import clear_lowest, popcount, trailing_zeros
from .pfn import write_pfns
from .run_records import MOST_WORDS, Runs, most_pages, run_words
from .translate import APART, side_of

LINKS = FULL >> ONE  # between 64 pages


@kernel
def encode_all(encoder, pages):
    """Encode pages into the encoder's buffers, one message over the other.

    Return the messages and their bytes. Errors and `pages` as of `encode.begin`.
    """
    n_messages, n_bytes = 0, 0
    step = message_pages(encoder)
    if step > 0:
        for at in range(0, pages.size, step):
            part = pages[at : at + step]
            write_pfns(part, encoder.pfns[: part.size])
            n_messages += 1
            n_bytes += 4 * part.size
        return n_messages, n_bytes
    begin(encoder, pages)
    while True:
        used = next_message(encoder, pages)
        if used == 0:
            return n_messages, n_bytes
        n_messages += 1
        n_bytes += used


@kernel
def decode_all(decoding, words, spans, ranges, faults):
    """Decode messages, each into `ranges` from row 0 on; return the number of all ranges.

    `words` (uint64) holds them; rows of `spans` (int64) are a message's first word and its bytes.
    """
    n = 0
    for i in range(spans.shape[0]):
        first, n_bytes = spans[i, 0], spans[i, 1]
        n += decode(decoding, words[first : first + (n_bytes + 7) // 8], n_bytes, ranges, faults)
    return n


@kernel
def decode_stream(decoding, words, spans, ranges, ends, faults):
    """Decode messages, one behind the other; stop at the first fault; return the messages done.

    As `decode_all`; `ends` (int64, one per message) receives the row behind each one's ranges.
    """
    n = 0
    for i in range(spans.shape[0]):
        first, n_bytes = spans[i, 0], spans[i, 1]
        message = words[first : first + (n_bytes + 7) // 8]
        n += decode(decoding, message, n_bytes, ranges[n:], faults)
        ends[i] = n
        if faults[0]["counts"].sum() > 0:
            return i
    return spans.shape[0]


@kernel
def count_joined(ranges):
    """Count the discards of a message's ranges where neighbours make one, as in `translate`.

    `ranges` are int64 rows of (start_pfn, n_pages), in wire order.
    """
    n, start, n_pages = 0, 0, 0
    for i in range(ranges.shape[0]):
        side = side_of(start, n_pages, ranges[i, 0], ranges[i, 1])
        if n == 0 or side == APART:
            n += 1
            start, n_pages = ranges[i, 0], ranges[i, 1]
        else:
            start = min(start, ranges[i, 0])
            n_pages += ranges[i, 1]
    return n


@kernel
def _ascends_from(block, first):
    """Return whether 64 pages follow each other from `first` on; without a branch inside."""
    differs = 0
    for j in range(WORD):
        differs |= block[j] ^ (first + j)
    return differs == 0


@kernel
def _links(block, step):
    """Return which pages of a block the next one follows by `step`, as 63 bits; no branches."""
    links = ZERO
    for j in range(WORD - 1):
        links |= np.uint64(block[j + 1] - block[j] == step) << np.uint64(j)
    return links


@kernel
def _put_block(kind, block, area, n):
    """Write the runs that end within a block before its last page; return words, pages and runs.

    Only where nothing in it descends, or nothing ascends, and where a run does end: else none.
    """
    up, down = _links(block, 1), _links(block, -1)
    links = up | down
    if links == LINKS or (up != ZERO and down != ZERO):
        return n, 0, 0
    first, left = 0, ~links & LINKS
    n_runs = popcount(left)
    while left != ZERO:
        last = trailing_zeros(left)
        left = clear_lowest(left)
        lowest = min(block[first], block[last])
        area[n], area[n + 1], size = run_words(kind, lowest, last - first + 1)
        n += size
        first = last + 1
    return n, first, n_runs


@kernel
def encode_listed(kind, pages, at, area):
    """Write runs of a list as records, in its order, until the area is full.

    What a driver does that keeps no bitmap: neighbours are a run, up or down. `kind` is one of
    `run_records.Runs`, `pages` int64, `at` where to go on in it. Return where the next message
    begins and the words of this one.

    Of 64 pages the runs are found at once where they can be, from a mask of who follows whom: half
    a random set takes 8 ns a page where each is looked at, a guess of it being wrong half the
    time. Flat on purpose, as `translate`. Whole blocks are compared once a run has 64 pages: at
    the speed of memory.
    """
    header = 1 if kind == Runs.CHUNK_V7 else 0
    n, n_records, most, untried = header, 0, most_pages(kind), at
    while at < pages.size and n + MOST_WORDS <= area.size:
        if at >= untried and at + WORD <= pages.size and n + MOST_WORDS * WORD <= area.size:
            n, n_pages, n_runs = _put_block(kind, pages[at : at + WORD], area, n)
            if n_runs > 0:
                at += n_pages
                n_records += n_runs
                continue
            untried = at + WORD
        first, length, left = pages[at], 1, min(pages.size - at, most)
        step = pages[at + 1] - first if left > 1 else 0
        if step == 1 or step == -1:
            length = 2
            while length < left and pages[at + length] == first + step * length:
                length += 1
                if length & (WORD - 1) == 0 and step == 1:
                    block = at + length
                    while block + WORD <= at + left and _ascends_from(
                        pages[block : block + WORD], first + length
                    ):
                        length += WORD
                        block += WORD
        lowest = first - length + 1 if step == -1 else first
        area[n], area[n + 1], size = run_words(kind, lowest, length)
        n += size
        n_records += 1
        at += length
    if header > 0:
        area[0] = n_records
    return at, n


@kernel
def encode_all_listed(kind, pages, area):
    """Write all runs of a list, one message over the other; return the messages and their bytes."""
    n_messages, n_bytes, at = 0, 0, 0
    while at < pages.size:
        at, n_words = encode_listed(kind, pages, at, area)
        n_messages += 1
        n_bytes += 8 * n_words
    return n_messages, n_bytes
