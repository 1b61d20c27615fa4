"""Whole page sets: every message encoded, or decoded, without a queue in between."""

from __future__ import annotations

from .bitmap import WORD
from .compile import kernel
from .encode import begin, message_pages, next_message
from .formats import decode
from .pfn import write_pfns
from .run_records import MOST_WORDS, Runs, most_pages, put_run
from .translate import APART, side_of


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
def _listed_run(pages, at, most):
    """Return the first page and the length of a run of neighbours in a list, up or down.

    Up to `most` pages. Whole blocks are compared once a run has 64 pages: at the speed of memory.
    """
    first, n = pages[at], 1
    left = min(pages.size - at, most)
    if left > 1 and pages[at + 1] + 1 == first:
        while n < left and pages[at + n] + n == first:
            n += 1
        return first - n + 1, n
    while n < left and pages[at + n] == first + n:
        n += 1
        if n & (WORD - 1) == 0:
            while n + WORD <= left and _ascends_from(pages[at + n : at + n + WORD], first + n):
                n += WORD
    return first, n


@kernel
def encode_listed(kind, pages, at, area):
    """Write runs of a list as records, in its order, until the area is full.

    What a driver does that keeps no bitmap. `kind` is one of `run_records.Runs`, `pages` int64,
    `at` where to go on in it. Return where the next message begins and the words of this one.
    """
    header = 1 if kind == Runs.CHUNK_V7 else 0
    n, n_records = header, 0
    while at < pages.size and n + MOST_WORDS <= area.size:
        first, length = _listed_run(pages, at, most_pages(kind))
        n = put_run(kind, area, n, first, length)
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
