"""Encoding: pages become messages in the driver's buffers, one message per kick.

A batch of PFNs or blocks is one message (`encode_batch`). Records are a resumable walk:
`begin` takes the pages, `next_message` writes one message at a time until it returns 0. The
driver puts each on the queue; `balloonlab.wire.encode` copies each out (`collect`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import posted
from .adaptive import close_segments, fill_segments
from .adaptive_plan import plan
from .bitmap import WORD, ZERO, set_bits, survey, survey_words
from .bitmap_v3 import fill_raw
from .bitmap_v4 import (
    BITMAP_WORDS,
    HEADER_BYTES,
    PAGE_SHIFT_4K,
    RECORD_WORDS,
    WINDOW_WORDS,
    fill_records,
    make_head,
)
from .bitmap_wide import fill_wide
from .compile import kernel
from .formats import Encoding
from .intrinsics import copy_items
from .own import FIRST_ADDRESS, encode_own
from .pfn import write_pfns
from .run_records import fill_runs
from .vring import DESC_NEXT, DESC_WRITE, describe
from .windows import split_by_window

BLOCKS_PER_KICK = 32  # PAGE_REPORTING_CAPACITY of Linux
DESCRIPTOR_BYTES = 16

STATE = np.dtype(
    [
        ("first_pfn", np.int64),  # page of the first window's first bit
        ("n_windows", np.int64),
        ("next_window", np.int64),
        ("begin", np.int64),  # where the next window's pages begin in `Encoder.sorted`
        ("start_pfn", np.int64),  # page of the open window's first bit
        ("n_words", np.int64),  # bitmap words of the open window
        ("word", np.int64),  # the next one to read
        ("bit", np.int64),  # of it, where runs are cut at any page
        ("at", np.int64),  # units of the record area that have segments
        ("n_listed", np.int64),  # page numbers at its end
        ("goes_on", np.int64),  # whether a message may go on behind the bitmap
        ("n_records", np.int64),
        ("buffer", np.int64),  # which one the next message is written into
    ]
)
"""Where the walk stands."""


class Encoder(NamedTuple):
    """What a driver builds its messages with, and where the guest finds the buffers."""

    encoding: int  # one of `Encoding`
    kick_pages: int  # page numbers in a message of PFNS
    in_flight: int  # messages that may be on the queue: so many buffers there are
    pfns: np.ndarray  # uint32, shape (in_flight * kick_pages,)
    header: np.ndarray  # uint64, shape (in_flight,)
    records: np.ndarray  # uint64, shape (in_flight * 4096,)
    pfns_gpa: int  # guest physical addresses of the three
    header_gpa: int
    records_gpa: int
    block_order: int  # of BLOCKS: each has 2**block_order pages; else 0
    block_bytes: int  # of BLOCKS: what each descriptor says
    bitmaps: np.ndarray  # uint64, shape (n * 4096,): the bitmaps there is memory for, n >= 1
    blocks: np.ndarray  # uint64, `survey_words` of the pages: scratch of `survey`
    sorted: np.ndarray  # uint64: room for the pages where they exceed one window, else empty
    ends: np.ndarray  # int64, one per window: scratch of `split_by_window`
    chosen: np.ndarray  # uint8, one per bitmap word: the plan of SEGMENTS, else empty
    own: np.ndarray  # int64, shape (4,): what a format of one's own keeps between messages
    state: np.ndarray  # STATE, shape (1,)
    posted: np.ndarray  # balloonlab.kernels.posted.STATE, shape (1,)


@kernel
def message_pages(encoder):
    """Return the pages or blocks in a message, but the last one; 0 where that depends on them."""
    if encoder.encoding == Encoding.PFNS:
        return encoder.kick_pages
    if encoder.encoding == Encoding.BLOCKS:
        return BLOCKS_PER_KICK
    return 0


@kernel
def batch_pages(encoder, n_pages):
    """Return the pages or blocks that the driver takes before it sends: one message, or all."""
    n = message_pages(encoder)
    return n if n > 0 else n_pages


@kernel
def first_descriptor(encoder):
    """Return the first of the two descriptors that go with the buffer."""
    return 2 * encoder.state[0]["buffer"]


@kernel
def first_record(encoder):
    """Return where the record area of the buffer begins in `Encoder.records`."""
    return encoder.state[0]["buffer"] * RECORD_WORDS


@kernel
def encode_batch(encoder, pages, ring):
    """Encode a batch of PFNs or blocks and write its descriptors; return the message's bytes.

    PFNs stand in one buffer; blocks are the chain's own descriptors, device-writable.
    """
    n = pages.size
    if encoder.encoding == Encoding.PFNS:
        begin = encoder.state[0]["buffer"] * encoder.kick_pages
        write_pfns(pages, encoder.pfns[begin : begin + n])
        describe(ring, first_descriptor(encoder), encoder.pfns_gpa + 4 * begin, 4 * n, 0)
        return 4 * n
    for i in range(n):
        flags = DESC_WRITE | DESC_NEXT if i + 1 < n else DESC_WRITE
        describe(ring, i, np.int64(pages[i]) << PAGE_SHIFT_4K, encoder.block_bytes, flags)
    return DESCRIPTOR_BYTES * n


@kernel
def open_window(encoder, pages, blocks, start_pfn, high):
    """Set the bits of a window's pages; `blocks` and `high` are `survey`'s."""
    state = encoder.state[0]
    state["start_pfn"] = start_pfn
    state["n_words"] = (high - start_pfn) // WORD + 1
    state["word"] = 0
    state["bit"] = 0
    state["goes_on"] = 1 if state["next_window"] < state["n_windows"] else 0
    words = encoder.bitmaps[: state["n_words"]]
    words[:] = ZERO
    encoder.own[:] = 0
    set_bits(pages, blocks, start_pfn, words)
    if encoder.encoding == Encoding.SEGMENTS:
        plan(words, start_pfn, encoder.chosen[: state["n_words"]])


@kernel
def _begin_records(encoder, pages):
    """Open the only window, or sort the pages by window."""
    state = encoder.state[0]
    blocks = encoder.blocks[: survey_words(pages.size)]
    low, top = survey(pages, blocks)
    state["first_pfn"] = np.int64(low) // WORD * WORD
    window_pages = encoder.bitmaps.size * WORD
    n_windows = (np.int64(top) - state["first_pfn"]) // window_pages + 1
    state["n_windows"] = n_windows
    state["begin"] = 0
    state["word"] = 0
    state["n_words"] = 0
    state["at"] = 0
    state["n_listed"] = 0
    if n_windows == 1:
        state["next_window"] = 1
        open_window(encoder, pages, blocks, state["first_pfn"], np.int64(top))
    else:
        state["next_window"] = 0
        ends = encoder.ends[:n_windows]
        split_by_window(pages, state["first_pfn"], window_pages, ends, encoder.sorted)


@kernel
def _open_next_window(encoder):
    state = encoder.state[0]
    window = state["next_window"]
    part = encoder.sorted[state["begin"] : encoder.ends[window]]
    state["next_window"] = window + 1
    state["begin"] = encoder.ends[window]
    if part.size > 0:
        blocks = encoder.blocks[: survey_words(part.size)]
        _, top = survey(part, blocks)
        start_pfn = state["first_pfn"] + window * encoder.bitmaps.size * WORD
        open_window(encoder, part, blocks, start_pfn, np.int64(top))


@kernel
def _fill(encoder, words, window_words):
    """Fill the record area from the open bitmap, to the end of a window; return what is due."""
    state, encoding, at = encoder.state[0], encoder.encoding, first_record(encoder)
    area = encoder.records[at : at + RECORD_WORDS]
    first_pfn = state["start_pfn"]
    if encoding == Encoding.RECORDS:
        return 8 * fill_records(words, first_pfn, window_words, state, area)
    words = words[: (state["word"] // window_words + 1) * window_words]
    if encoding == Encoding.RECORDS_WIDE:
        return 8 * fill_wide(words, first_pfn, state, area)
    if encoding == Encoding.RAW:
        return 8 * fill_raw(words, first_pfn, state, area)
    if encoding == Encoding.SEGMENTS:
        units = area.view(np.uint16)
        full = fill_segments(words, first_pfn, encoder.chosen, state, units)
        goes_on = state["goes_on"] != 0 or state["word"] < state["n_words"]
        return 0 if goes_on and not full else 2 * close_segments(state, units)
    if encoding >= FIRST_ADDRESS:
        first = state["word"] // window_words * window_words
        used = encode_own(encoding, words[first:], first_pfn + first * WORD, encoder.own, area)
        if used == 0:
            state["word"] = words.size
            encoder.own[:] = 0
        return 8 * used
    return 8 * fill_runs(encoding - Encoding.RANGE_V6, words, first_pfn, state, area)


@kernel
def _next_records(encoder):
    """Fill the record area, window by window; return its bytes, 0 at the end."""
    state = encoder.state[0]
    while True:
        if state["word"] < state["n_words"]:
            words = encoder.bitmaps[: state["n_words"]]
            window_words = min(encoder.bitmaps.size, WINDOW_WORDS)
            used = _fill(encoder, words, window_words)
            if used > 0:
                return used
            if state["word"] < state["n_words"]:
                continue  # a window without pages, or none of it is due yet
        if state["next_window"] == state["n_windows"]:
            return 0
        _open_next_window(encoder)


@kernel
def begin(encoder, pages):
    """Begin to encode `pages` (uint64 array, shape (n,), n > 0) as records."""
    encoder.state[0]["n_records"] = 0
    if encoder.encoding == Encoding.RECORDS_AS_POSTED:
        posted.begin_walk(encoder.posted[0], pages, encoder.bitmaps.size // BITMAP_WORDS)
    else:
        _begin_records(encoder, pages)


@kernel
def next_message(encoder, walked):
    """Write the next message of records into the buffers; return its bytes, 0 at the end.

    `walked` is the list that holds the pages, which only the driver as posted reads.
    """
    if encoder.encoding == Encoding.RECORDS_AS_POSTED:
        walk, at = encoder.posted[0], first_record(encoder)
        area = encoder.records[at : at + RECORD_WORDS]
        used = 8 * posted.next_message(walk, walked, encoder.bitmaps, area)
        encoder.state[0]["n_records"] = walk["n_records"]
    elif encoder.encoding <= Encoding.CONT_PAGES or encoder.encoding >= FIRST_ADDRESS:
        used = _next_records(encoder)
    else:
        used = 0
    return _with_header(encoder, used)


@kernel
def header_bytes(encoder):
    """Return the bytes of the response header that goes before records; 0 where there is none."""
    bare = encoder.encoding > Encoding.RECORDS_WIDE
    return 0 if bare else HEADER_BYTES


@kernel
def _with_header(encoder, used):
    """Write the response header for `used` bytes of records; return the message's bytes."""
    encoder.header[encoder.state[0]["buffer"]] = np.uint64(used) << np.uint64(32)
    return header_bytes(encoder) + used if used > 0 else 0


@kernel
def encode_page(encoder, page, ring):
    """Encode a single page: one PFN, or a block of order 0 (migration); return the bytes."""
    if encoder.encoding == Encoding.PFNS:
        return encode_batch(encoder, page, ring)
    if header_bytes(encoder) == 0:
        begin(encoder, page)
        n_bytes = next_message(encoder, page)
        describe_records(encoder, ring, n_bytes)
        return n_bytes
    encoder.records[first_record(encoder)] = make_head(page[0], PAGE_SHIFT_4K, 0)
    return encode_heads(encoder, 1, ring)


@kernel
def encode_heads(encoder, n, ring):
    """Make a message of the first `n` words of the record area; return its bytes."""
    n_bytes = _with_header(encoder, 8 * n)
    describe_records(encoder, ring, n_bytes)
    return n_bytes


@kernel
def message_used(encoder):
    """Do what the driver does when its message was used: as posted, it frees bitmaps."""
    if encoder.encoding == Encoding.RECORDS_AS_POSTED:
        posted.after_send(encoder.posted[0])


@kernel
def describe_records(encoder, ring, n_bytes):
    """Write the descriptors of a message of records: the header, if any, then the record area."""
    buffer, first = encoder.state[0]["buffer"], first_descriptor(encoder)
    records_gpa = encoder.records_gpa + 8 * RECORD_WORDS * buffer
    if header_bytes(encoder) == 0:
        describe(ring, first, records_gpa, n_bytes, 0)
        return
    describe(ring, first, encoder.header_gpa + HEADER_BYTES * buffer, HEADER_BYTES, DESC_NEXT)
    describe(ring, first + 1, records_gpa, n_bytes - HEADER_BYTES, 0)


@kernel
def collect(encoder, walked, out, spans):
    """Copy messages of records out one after the other, as if each was sent and used.

    `out` (uint64) receives the messages, each from a word on, and `spans` (int64, shape (n, 2)) the
    first word and the bytes of each. Return how many there were. Call again until that is 0: they
    fill `spans`, or leave less room in `out` than the longest message takes.
    """
    at, head = 0, header_bytes(encoder) // 8
    for n in range(spans.shape[0]):
        room = at + 1 + encoder.records.size <= out.size
        n_bytes = next_message(encoder, walked) if room else 0
        if n_bytes == 0:
            return n
        n_words = (n_bytes + 7) // 8
        if head > 0:
            out[at] = encoder.header[0]
        copy_items(out[at + head : at + n_words], encoder.records[: n_words - head])
        message_used(encoder)
        spans[n, 0] = at
        spans[n, 1] = n_bytes
        at += n_words
    return spans.shape[0]
