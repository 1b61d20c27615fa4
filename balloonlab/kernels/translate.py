"""Guest memory as the host sees it: the memory map, and the way from ranges to extents.

A host virtual address is held as a byte offset into the host's one mapping; only
`discard` adds the mapping's address. So kernels index an ordinary array, and a
run with bounds checks checks the guest's memory too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import FULL, ONE, ZERO
from .compile import kernel
from .discard import Discard
from .faults import OUTSIDE_RAM, REPEATED, record_fault
from .intrinsics import atomic_xor, trailing_zeros

PAGE_BYTES = 4096
PIECE_PAGES = 1 << 20  # of a range looked at in one step: 16,384 words, some 10 us

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


APART, ABOVE, BELOW = range(3)


@kernel
def side_of(last_offset, last_bytes, offset, n_bytes):
    """Return where an extent continues the last one: above it, below it, or not at all."""
    if last_offset + last_bytes == offset:
        return ABOVE
    return BELOW if offset + n_bytes == last_offset else APART


@kernel
def translate(memory, device, ranges):
    """Turn ranges of guest pages into extents of host memory; return how many, a batch at a time.

    Those that the device holds already stay, and count.

    `ranges` are int64 rows of (start_pfn, n_pages), each address looked up in the memory map. A
    range of which any page is not the guest's RAM is refused whole, before anything of it is
    discarded. Of one that repeats pages those are skipped, 64 at a time: none is discarded that is
    in the balloon already. A batch ends with the ranges, with room for extents, or after as many
    lookups: the caller then sees whether it is to stop. It has 0 extents, too, where all its pages
    are repeated. A fault's position is the range's number.

    Flat on purpose: a helper that is handed arrays costs an atomic reference count for each of
    them, 29 ns per page instead of 8.
    """
    slots, extents, balloon = memory.slots, device.extents, device.balloon
    state, inflating = device.state[0], device.inflating
    per_page = device.discard == Discard.PER_PAGE
    n = state["held"]
    i, done, n_lookups = state["range"], state["done"], state["n_lookups"]
    last_lookup = n_lookups + extents.shape[0]
    while i < ranges.shape[0] and n_lookups < last_lookup:
        pfn = ranges[i, 0] + done
        end = ranges[i, 0] + ranges[i, 1]
        if done == 0 and ranges[i, 1] > 1 and not _all_balloonable(slots, pfn, end):
            record_fault(device.faults, OUTSIDE_RAM, i)
            i += 1
            continue
        n_skipped = 0
        while pfn < end and n < extents.shape[0] and n_lookups < last_lookup:
            row = find_slot(slots, pfn)
            if row < 0 or slots[row, BALLOONABLE] == 0:  # a range of one page, refused here
                record_fault(device.faults, OUTSIDE_RAM, i)
                pfn = end
                break
            n_lookups += 1
            into = pfn - slots[row, START]
            first = slots[row, FIRST_PAGE] + into
            n_pages = min(end - pfn, slots[row, N_PAGES] - into, PIECE_PAGES)
            inside = (balloon[first >> 6] >> np.uint64(first & 63)) & ONE != ZERO
            skipped = _count_there(balloon, first, n_pages, inflating) if inside == inflating else 0
            moved = n_pages - skipped
            first += skipped
            if per_page and moved > 0:
                moved = 1
                atomic_xor(balloon, first >> 6, ONE << np.uint64(first & 63))
            elif moved > 0:
                moved = _claim(balloon, first, moved, inflating)
            n_skipped += skipped
            pfn += skipped + moved
            if moved == 0:
                continue
            offset, n_bytes = first * PAGE_BYTES, moved * PAGE_BYTES
            side = APART
            if n > 0 and not per_page:
                side = side_of(extents[n - 1, 0], extents[n - 1, 1], offset, n_bytes)
            if side == APART:
                extents[n, 0] = offset
                extents[n, 1] = n_bytes
                n += 1
            else:
                extents[n - 1, 1] += n_bytes
                if side == BELOW:
                    extents[n - 1, 0] = offset
        # Out here, since inside the loop it costs every page 1 ns.
        if n_skipped > 0 and state["last_repeating"] <= i:
            record_fault(device.faults, REPEATED, i)
            state["last_repeating"] = i + 1
        done = pfn - ranges[i, 0]
        if pfn < end:
            break
        i += 1
        done = 0
    state["range"] = i
    state["done"] = done
    state["n_lookups"] = n_lookups
    return n
