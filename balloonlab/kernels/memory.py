"""Guest memory as the host sees it: lookup, discard, and a check of contents.

A host virtual address is held as a byte offset into the host's one mapping; only
`discard` adds the mapping's address. So kernels index an ordinary array, and a
run with bounds checks checks the guest's memory too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import FULL, ONE, ZERO
from .compile import kernel
from .faults import OUTSIDE_RAM, REPEATED, record_fault
from .intrinsics import atomic_xor, trailing_zeros
from .syscalls import advise

PAGE_BYTES = 4096
PIECE_PAGES = 1 << 20  # of a range looked at in one step: 16,384 words, some 10 us
SIGNATURE = np.uint64(0x9E3779B97F4A7C15)  # wider than any page number: never cancelled to 0

START, N_PAGES, FIRST_PAGE, BALLOONABLE = range(4)
"""Columns of `Memory.slots`."""


class Memory(NamedTuple):
    """The memory map and what lies behind it."""

    ram: np.ndarray  # uint8, the whole mapping
    base_address: int  # where `ram` stands in this process
    slots: np.ndarray  # int64, shape (n, 4), by start: see the column names


@kernel
def find_slot(slots, pfn):
    """Row of the slot that holds `pfn`, -1 for a hole."""
    for row in range(slots.shape[0]):
        if slots[row, START] <= pfn < slots[row, START] + slots[row, N_PAGES]:
            return row
    return -1


@kernel
def resolve(memory, gpa, n_bytes):
    """Offset of a buffer at a guest physical address, -1 unless one slot holds all of it."""
    row = find_slot(memory.slots, gpa // PAGE_BYTES)
    if row < 0 or n_bytes < 0:
        return -1
    into = gpa - memory.slots[row, START] * PAGE_BYTES
    if into + n_bytes > memory.slots[row, N_PAGES] * PAGE_BYTES:
        return -1
    return memory.slots[row, FIRST_PAGE] * PAGE_BYTES + into


@kernel
def _all_balloonable(slots, pfn, end):
    while pfn < end:
        row = find_slot(slots, pfn)
        if row < 0 or slots[row, BALLOONABLE] == 0:
            return False
        pfn = slots[row, START] + slots[row, N_PAGES]
    return True


@kernel
def _count_there(balloon, first, n_pages, inflating):
    """Count the pages from `first` on that are where they are to go; word by word."""
    flip = FULL if inflating else ZERO
    there = 0
    while there < n_pages:
        shift = (first + there) & 63
        free = (balloon[(first + there) >> 6] ^ flip) >> np.uint64(shift)
        if free != ZERO:
            there += trailing_zeros(free)
            break
        there += 64 - shift
    return min(there, n_pages)


@kernel
def _claim(balloon, first, n_pages, inflating):
    """Move the pages from `first` on up to one that is there already; return how many.

    The inflate queue's thread only sets bits and the deflate queue's only clears them,
    so a bit that may be moved stays so; its neighbours in the word may change.
    """
    flip = FULL if inflating else ZERO
    taken = 0
    while taken < n_pages:
        word = (first + taken) >> 6
        shift = (first + taken) & 63
        free = (balloon[word] ^ flip) >> np.uint64(shift)
        length = min(trailing_zeros(~free), n_pages - taken)
        if length == 0:
            break
        atomic_xor(balloon, word, (FULL >> np.uint64(64 - length)) << np.uint64(shift))
        taken += length
        if shift + length < 64:
            break
    return taken


@kernel
def translate(memory, ranges, position, by_page, balloon, inflating, extents, faults):
    """Turn ranges of guest pages into extents of host memory, a batch at a time.

    Every address is looked up in the memory map. A range of which any page is not
    the guest's RAM is refused whole, before anything of it is discarded. Of a range
    that repeats pages those are passed over, 64 at a time: no page is discarded that is
    in the balloon already. A batch ends with the ranges, with room for extents, or after
    as many lookups: the caller then sees whether it is to stop.

    Parameters
    ----------
    memory : Memory
    ranges : int64 array, shape (n, 2)
        (start_pfn, n_pages).
    position : int64 array, shape (4,)
        Next range, pages of it already done, lookups made, ranges whose repetition is
        counted; moved on here.
    by_page : bool
        One extent a page, as QEMU does; else neighbours are joined.
    balloon : uint64 array
        A bit a page of the mapping, set while the page is in the balloon; both of the
        device's queues share it.
    inflating : bool
        Whether the pages enter the balloon; else they leave it.
    extents : int64 array, shape (capacity, 2)
        Receives (offset, length) in bytes.
    faults : int64 array
        See `balloonlab.kernels.faults`; the position is the range's number.

    Returns
    -------
    int
        Extents written; none are, too, where a batch has only repeated pages.
    """
    slots = memory.slots
    n = 0
    last_lookup = position[2] + extents.shape[0]
    i = position[0]
    done = position[1]
    while i < ranges.shape[0] and position[2] < last_lookup:
        pfn = ranges[i, 0] + done
        end = ranges[i, 0] + ranges[i, 1]
        if done == 0 and ranges[i, 1] > 1 and not _all_balloonable(slots, pfn, end):
            record_fault(faults, OUTSIDE_RAM, i)
            i += 1
            continue
        while pfn < end and n < extents.shape[0] and position[2] < last_lookup:
            row = find_slot(slots, pfn)
            if row < 0 or slots[row, BALLOONABLE] == 0:  # a range of one page, refused here
                record_fault(faults, OUTSIDE_RAM, i)
                pfn = end
                break
            position[2] += 1
            into = pfn - slots[row, START]
            first = slots[row, FIRST_PAGE] + into
            n_pages = min(end - pfn, slots[row, N_PAGES] - into, PIECE_PAGES)
            inside = (balloon[first >> 6] >> np.uint64(first & 63)) & ONE != ZERO
            skip = _count_there(balloon, first, n_pages, inflating) if inside == inflating else 0
            step = n_pages - skip
            if by_page and step > 0:
                step = 1
                atomic_xor(balloon, (first + skip) >> 6, ONE << np.uint64((first + skip) & 63))
            elif step > 0:
                step = _claim(balloon, first + skip, step, inflating)
            if skip > 0 and position[3] <= i:
                record_fault(faults, REPEATED, i)
                position[3] = i + 1
            pfn += skip + step
            if step == 0:
                continue
            offset = (first + skip) * PAGE_BYTES
            length = step * PAGE_BYTES
            if not by_page and n > 0 and extents[n - 1, 0] + extents[n - 1, 1] == offset:
                extents[n - 1, 1] += length
            elif not by_page and n > 0 and offset + length == extents[n - 1, 0]:
                extents[n - 1, 0] = offset
                extents[n - 1, 1] += length
            else:
                extents[n, 0] = offset
                extents[n, 1] = length
                n += 1
        done = pfn - ranges[i, 0]
        if pfn < end:
            break
        i += 1
        done = 0
    position[0] = i
    position[1] = done
    return n


@kernel
def discard(memory, extents, advice):
    """One madvise an extent; return how many failed."""
    failed = 0
    for i in range(extents.shape[0]):
        if advise(memory.base_address + extents[i, 0], extents[i, 1], advice) != 0:
            failed += 1
    return failed


@kernel
def touch(ram, first_page, n_pages):
    """Write each page's signature into its first word, so that the host must back it."""
    words = ram.view(np.uint64)
    for page in range(first_page, first_page + n_pages):
        words[page * (PAGE_BYTES // 8)] = np.uint64(page) ^ SIGNATURE


@kernel
def count_lost(ram, n_pages, ballooned):
    """Count the pages outside the balloon whose signature is gone.

    `ballooned` is a bitmap over the pages of `ram`; pages in it are not read.
    """
    words = ram.view(np.uint64)
    lost = 0
    for page in range(n_pages):
        bit = ballooned[page >> 6] >> np.uint64(page & 63)
        expected = np.uint64(page) ^ SIGNATURE
        if bit & ONE == ZERO and words[page * (PAGE_BYTES // 8)] != expected:
            lost += 1
    return lost
