"""The guest's side of an inflation: take pages, build the message, send it.

Two drivers, as in the seed patch. The legacy one sends every 256 pages. The
bitmap one takes all its pages first, sets their bits in one pass over the list,
then sends records by the area. Interval by interval goes to the log: one clock
read (24 ns) at each batch boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import WORD, ZERO, set_bits, survey
from .bitmap_v4 import fill_records
from .buddy import take_blocks
from .clock import ALLOCATE, PACK, ROUND_TRIP, record
from .compile import kernel
from .pfn import PFNS_PER_BUFFER, write_pfns
from .syscalls import now_ns
from .vring import describe, send


class Buffers(NamedTuple):
    """The driver's message buffers: views of guest memory, and where the guest finds them."""

    pfns: np.ndarray  # uint32, shape (256,)
    header: np.ndarray  # uint64, shape (1,)
    records: np.ndarray  # uint64, shape (4096,)
    gpas: np.ndarray  # int64, shape (3,): guest physical addresses of the three
    words: np.ndarray  # uint64: bitmap over the guest's page numbers, the driver's own
    lowest: np.ndarray  # uint64, one a block of 64 pages: scratch of `survey`


PFNS_GPA, HEADER_GPA, RECORDS_GPA = range(3)

KICKS, WIRE_BYTES, RECORDS, BEGIN_NS, END_NS = range(5)
"""Cells of the driver's counters (int64): what was sent, when the operation began and ended."""


@kernel
def inflate_pfns(blocks, pages, ring, buffers, counters, log):
    """Legacy inflation: 256 pages taken, told and waited for at a time.

    Parameters
    ----------
    blocks : balloonlab.kernels.buddy.Blocks
        The guest's allocator.
    pages : uint64 array, shape (n,)
        The balloon: receives the pages in the order taken.
    ring : balloonlab.kernels.vring.Ring
    buffers : Buffers
    counters : int64 array, shape (5,)
    log : balloonlab.kernels.clock.Log

    Returns
    -------
    int
        Pages told; fewer than n when memory ran out or the device broke.
    """
    told = 0
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    while told < pages.size:
        batch = pages[told : min(told + PFNS_PER_BUFFER, pages.size)]
        n = take_blocks(blocks, 0, batch)
        clock = record(log, ALLOCATE, clock)
        if n == 0:
            break
        write_pfns(batch[:n], buffers.pfns)
        describe(ring, 0, buffers.gpas[PFNS_GPA], 4 * n, False)
        clock = record(log, PACK, clock)
        if not send(ring, log.cell):
            break
        clock = record(log, ROUND_TRIP, clock)
        told += n
        counters[KICKS] += 1
        counters[WIRE_BYTES] += 4 * n
        counters[RECORDS] += n
    counters[END_NS] = now_ns(log.cell)
    return told


@kernel
def inflate_bitmap(blocks, pages, ring, buffers, window_words, counters, log):
    """Bitmap inflation, corrected: every page told once, in one pass over the list.

    Parameters as `inflate_pfns`; `window_words` as in `fill_records`.
    """
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    n = take_blocks(blocks, 0, pages)
    clock = record(log, ALLOCATE, clock)
    if n == 0:
        return 0
    lowest = buffers.lowest[: (n + WORD - 1) // WORD]
    low, high = survey(pages[:n], lowest)
    first_pfn = np.int64(low) // WORD * WORD
    words = buffers.words[: (np.int64(high) - first_pfn) // WORD + 1]
    words[:] = ZERO
    set_bits(pages[:n], lowest, first_pfn, words)
    cursor = np.zeros(2, np.int64)
    while True:
        used = fill_records(words, first_pfn, window_words, cursor, buffers.records)
        if used == 0:
            break
        n_bytes = 8 * used
        buffers.header[0] = np.uint64(n_bytes << 32)
        describe(ring, 0, buffers.gpas[HEADER_GPA], 8, True)
        describe(ring, 1, buffers.gpas[RECORDS_GPA], n_bytes, False)
        clock = record(log, PACK, clock)
        if not send(ring, log.cell):
            return 0
        clock = record(log, ROUND_TRIP, clock)
        counters[KICKS] += 1
        counters[WIRE_BYTES] += 8 + n_bytes
    clock = record(log, PACK, clock)
    counters[RECORDS] += cursor[1]
    counters[END_NS] = now_ns(log.cell)
    return n
