"""PostedRun pages: messages are built in guest memory and sent, one kick each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import WORD, ZERO, set_bits, survey
from .bitmap_v4 import BITMAP_WORDS, HEADER_BYTES, fill_records, page_record
from .clock import PACK, ROUND_TRIP, record
from .compile import kernel
from .pfn import PFNS_PER_BUFFER, write_pfns
from .posted import N_RECORDS, after_send, begin_walk, next_message
from .vring import describe, send
from .windows import split_by_window

PFN_ARRAY, BITMAPS, AS_POSTED = range(3)
"""How a driver tells: `Message.how`."""


class Message(NamedTuple):
    """What a driver builds its messages with, and where the guest finds the buffers."""

    how: int
    pfns: np.ndarray  # uint32, shape (256,)
    header: np.ndarray  # uint64, shape (1,)
    records: np.ndarray  # uint64, shape (4096,)
    gpas: np.ndarray  # int64, shape (3,): guest physical addresses of the three
    bitmaps: np.ndarray  # uint64, shape (n * 4096,): the bitmaps at hand, n >= 1
    lowest: np.ndarray  # uint64, one a block of 64 pages: scratch of `survey`
    sorted: np.ndarray  # uint64: room for the pages where they exceed one window, else empty
    posted: np.ndarray  # int64: state of `balloonlab.kernels.posted`


PFNS_GPA, HEADER_GPA, RECORDS_GPA = range(3)

KICKS, WIRE_BYTES, RECORDS, BEGIN_NS, END_NS = range(5)
"""Cells of the driver's counters (int64): what was sent, when the operation began and ended."""


@kernel
def _send_pfns(batch, message, ring, counters, log, clock):
    """Send at most 256 pages as PFNs; the clock after it, -1 when the device broke."""
    write_pfns(batch, message.pfns)
    describe(ring, 0, message.gpas[PFNS_GPA], 4 * batch.size, False)
    clock = record(log, PACK, clock)
    if not send(ring, log.cell):
        return -1
    counters[KICKS] += 1
    counters[WIRE_BYTES] += 4 * batch.size
    counters[RECORDS] += batch.size
    return record(log, ROUND_TRIP, clock)


@kernel
def _send_records(used, message, ring, counters, log, clock):
    """Send `used` words of the record area behind their header; result as `_send_pfns`."""
    n_bytes = 8 * used
    message.header[0] = np.uint64(n_bytes << 32)
    describe(ring, 0, message.gpas[HEADER_GPA], HEADER_BYTES, True)
    describe(ring, 1, message.gpas[RECORDS_GPA], n_bytes, False)
    clock = record(log, PACK, clock)
    if not send(ring, log.cell):
        return -1
    counters[KICKS] += 1
    counters[WIRE_BYTES] += HEADER_BYTES + n_bytes
    return record(log, ROUND_TRIP, clock)


@kernel
def _tell_window(pages, lowest, first_pfn, high, message, ring, counters, log, clock):
    """Tell pages that the bitmaps at hand can hold: set their bits, send their records."""
    words = message.bitmaps[: (high - first_pfn) // WORD + 1]
    words[:] = ZERO
    set_bits(pages, lowest, first_pfn, words)
    cursor = np.zeros(2, np.int64)
    while True:
        used = fill_records(words, first_pfn, words.size, cursor, message.records)
        if used == 0:
            break
        clock = _send_records(used, message, ring, counters, log, clock)
        if clock < 0:
            return clock
    counters[RECORDS] += cursor[1]
    return clock


@kernel
def _tell_bitmaps(pages, message, ring, counters, log, clock):
    """Tell any number of pages, each once, window by window."""
    lowest = message.lowest[: (pages.size + WORD - 1) // WORD]
    low, top = survey(pages, lowest)
    first_pfn = np.int64(low) // WORD * WORD
    high = np.int64(top)
    window_pages = message.bitmaps.size * WORD
    n_windows = (high - first_pfn) // window_pages + 1
    if n_windows == 1:
        return _tell_window(pages, lowest, first_pfn, high, message, ring, counters, log, clock)
    ends = np.zeros(n_windows, np.int64)
    split_by_window(pages, first_pfn, window_pages, ends, message.sorted)
    begin = 0
    for w in range(n_windows):
        part = message.sorted[begin : ends[w]]
        begin = ends[w]
        if part.size == 0:
            continue
        lowest = message.lowest[: (part.size + WORD - 1) // WORD]
        _, top = survey(part, lowest)
        start = first_pfn + w * window_pages
        high = np.int64(top)
        clock = _tell_window(part, lowest, start, high, message, ring, counters, log, clock)
        if clock < 0:
            break
    return clock


@kernel
def _tell_as_posted(pages, walked, message, ring, counters, log, clock):
    """Tell pages as the posted patch does; `walked` is the list that it walks."""
    state = message.posted
    begin_walk(state, pages, message.bitmaps.size // BITMAP_WORDS)
    while True:
        used = next_message(state, walked, message.bitmaps, message.records)
        if used == 0:
            break
        clock = _send_records(used, message, ring, counters, log, clock)
        if clock < 0:
            break
        after_send(state)
    counters[RECORDS] += state[N_RECORDS]
    return clock


@kernel
def tell(pages, walked, message, ring, counters, log, clock):
    """Tell the host of pages.

    Parameters
    ----------
    pages : uint64 array, shape (n,), n > 0
        What is to be told; at most 256 pages as PFNs.
    walked : uint64 array
        The list that holds them: read by the posted driver only.
    message : Message
    ring : balloonlab.kernels.vring.Ring
    counters : int64 array, shape (5,)
    log : balloonlab.kernels.clock.Log
    clock : int
        When the interval before ended.

    Returns
    -------
    int
        The clock after it, -1 when the device broke.
    """
    if message.how == PFN_ARRAY:
        return _send_pfns(pages, message, ring, counters, log, clock)
    if message.how == BITMAPS:
        clock = _tell_bitmaps(pages, message, ring, counters, log, clock)
    else:
        clock = _tell_as_posted(pages, walked, message, ring, counters, log, clock)
    return record(log, PACK, clock) if clock >= 0 else clock


@kernel
def tell_page(page, message, ring, counters, log, clock):
    """Tell a single page, as migration does: one PFN, or one block of one page."""
    if message.how == PFN_ARRAY:
        return _send_pfns(page, message, ring, counters, log, clock)
    message.records[0] = page_record(page[0])
    counters[RECORDS] += 1
    return _send_records(1, message, ring, counters, log, clock)


@kernel
def batch_pages(message, n_pages):
    """Pages that one telling takes: the PFN array's 256, or all."""
    return PFNS_PER_BUFFER if message.how == PFN_ARRAY else n_pages
