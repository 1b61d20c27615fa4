"""The guest's side: take or give back pages, build the message, send it.

Two drivers, as in the seed patch. The legacy one works 256 pages at a time. The
bitmap one takes all its pages first, sets their bits in one pass over the list,
then sends records by the area. Interval by interval goes to the log: one clock
read (24 ns) at each batch boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import WORD, ZERO, set_bits, survey
from .bitmap_v4 import WINDOW_WORDS, fill_records
from .buddy import free_blocks, take_blocks
from .clock import ALLOCATE, PACK, RELEASE, ROUND_TRIP, record
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
def _tell_pfns(batch, ring, buffers, counters, log, clock):
    """Tell at most 256 pages in one buffer; the clock after it, -1 when the device broke."""
    write_pfns(batch, buffers.pfns)
    describe(ring, 0, buffers.gpas[PFNS_GPA], 4 * batch.size, False)
    clock = record(log, PACK, clock)
    if not send(ring, log.cell):
        return -1
    counters[KICKS] += 1
    counters[WIRE_BYTES] += 4 * batch.size
    counters[RECORDS] += batch.size
    return record(log, ROUND_TRIP, clock)


@kernel
def _tell_bitmap(pages, ring, buffers, counters, log, clock):
    """Tell any number of pages as records; the clock after it, -1 when the device broke."""
    lowest = buffers.lowest[: (pages.size + WORD - 1) // WORD]
    low, high = survey(pages, lowest)
    first_pfn = np.int64(low) // WORD * WORD
    words = buffers.words[: (np.int64(high) - first_pfn) // WORD + 1]
    words[:] = ZERO
    set_bits(pages, lowest, first_pfn, words)
    cursor = np.zeros(2, np.int64)
    while True:
        used = fill_records(words, first_pfn, WINDOW_WORDS, cursor, buffers.records)
        if used == 0:
            break
        n_bytes = 8 * used
        buffers.header[0] = np.uint64(n_bytes << 32)
        describe(ring, 0, buffers.gpas[HEADER_GPA], 8, True)
        describe(ring, 1, buffers.gpas[RECORDS_GPA], n_bytes, False)
        clock = record(log, PACK, clock)
        if not send(ring, log.cell):
            return -1
        clock = record(log, ROUND_TRIP, clock)
        counters[KICKS] += 1
        counters[WIRE_BYTES] += 8 + n_bytes
    counters[RECORDS] += cursor[1]
    return record(log, PACK, clock)


@kernel
def inflate_pfns(blocks, pages, ring, buffers, counters, log):
    """Legacy inflation: 256 pages taken, told and waited for at a time.

    Parameters
    ----------
    blocks : balloonlab.kernels.buddy.Blocks
        The guest's allocator.
    pages : uint64 array, shape (n,)
        The free end of the balloon's list: receives the pages in the order taken.
    ring : balloonlab.kernels.vring.Ring
        The inflate queue.
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
        clock = _tell_pfns(batch[:n], ring, buffers, counters, log, clock)
        if clock < 0:
            break
        told += n
    counters[END_NS] = now_ns(log.cell)
    return told


@kernel
def inflate_bitmap(blocks, pages, ring, buffers, counters, log):
    """Bitmap inflation, corrected: every page told once, in one pass over the list.

    Parameters and result as `inflate_pfns`.
    """
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    n = take_blocks(blocks, 0, pages)
    clock = record(log, ALLOCATE, clock)
    if n > 0:
        clock = _tell_bitmap(pages[:n], ring, buffers, counters, log, clock)
    counters[END_NS] = now_ns(log.cell)
    return n if clock >= 0 else 0


@kernel
def _move_newest(pages, leaving):
    """Copy the newest pages of the list into `leaving`, the newest first."""
    for i in range(leaving.size):
        leaving[i] = pages[pages.size - 1 - i]


@kernel
def deflate_pfns(blocks, pages, leaving, ring, buffers, counters, log):
    """Legacy deflation: 256 pages told, waited for and released at a time.

    The newest page goes first: ``balloon_page_dequeue`` takes the head of the list,
    where ``balloon_page_enqueue`` put it. Pages are released only after the host was
    told, as MUST_TELL_HOST demands.

    Parameters
    ----------
    pages : uint64 array
        The balloon's list, oldest first.
    leaving : uint64 array, shape (n,)
        Receives the pages that leave, newest first; n is at most the list's length.
    ring : balloonlab.kernels.vring.Ring
        The deflate queue.
    blocks, buffers, counters, log
        As in `inflate_pfns`.

    Returns
    -------
    int
        Pages released; fewer than n when the device broke.
    """
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    done = 0
    while done < leaving.size:
        batch = leaving[done : min(done + PFNS_PER_BUFFER, leaving.size)]
        _move_newest(pages[: pages.size - done], batch)
        clock = _tell_pfns(batch, ring, buffers, counters, log, clock)
        if clock < 0:
            break
        free_blocks(blocks, 0, batch)
        clock = record(log, RELEASE, clock)
        done += batch.size
    counters[END_NS] = now_ns(log.cell)
    return done


@kernel
def deflate_bitmap(blocks, pages, leaving, ring, buffers, counters, log):
    """Bitmap deflation: all pages told in one pass, then released.

    Parameters and result as `deflate_pfns`.
    """
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    _move_newest(pages, leaving)
    clock = _tell_bitmap(leaving, ring, buffers, counters, log, clock)
    if clock >= 0:
        free_blocks(blocks, 0, leaving)
        record(log, RELEASE, clock)
    counters[END_NS] = now_ns(log.cell)
    return leaving.size if clock >= 0 else 0
