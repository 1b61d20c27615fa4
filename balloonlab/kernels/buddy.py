"""The guest's page allocator: binary buddies of orders 0 to 10, zone by zone.

Free blocks of one zone and order form a doubly linked list through arrays
indexed by page number, as Linux threads it through ``struct page``. A page is
taken from the smallest block that serves, the upper half of a split block goes
back to the head of its list, and a freed block joins its buddy while it can.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel

N_ORDERS = 11
NONE = -1
BATCH_ORDER = 6  # 64 blocks; Linux's per-CPU lists are refilled by 63


class Blocks(NamedTuple):
    """The allocator's state; sized by the guest's highest page number."""

    next: np.ndarray  # int32, shape (max_pfn + 1,): list links of free blocks
    previous: np.ndarray  # int32, the same; meaningless for the first block of a list
    order: np.ndarray  # int8, the same: order of the free block that starts here, or NONE
    heads: np.ndarray  # int64, shape (n_zones, N_ORDERS): first block of each free list
    zone_ends: np.ndarray  # int64, shape (n_zones,): exclusive, ascending; taken from last to first


@kernel
def take_blocks(blocks, order, firsts):
    """Take free blocks of `order`, splitting larger ones; return how many there were.

    `firsts` (uint64, shape (n,)) receives the first page of each. Blocks are taken in batches,
    as Linux refills its per-CPU lists: one block is split no further than to the batch, which is
    handed out in ascending order. That gives the same blocks in the same order, and leaves the
    same free lists, as taking them one by one: 2 ns per page instead of 9.

    Written flat on purpose: a helper that is handed the arrays costs an atomic reference count
    for each of them, 190 ns per page in all.
    """
    following, previous = blocks.next, blocks.previous
    orders, heads = blocks.order, blocks.heads
    i = 0
    while i < firsts.size:
        zone = heads.shape[0] - 1
        larger = order
        while zone >= 0 and heads[zone, larger] == NONE:
            larger += 1
            if larger == N_ORDERS:
                larger = order
                zone -= 1
        if zone < 0:
            return i
        pfn = heads[zone, larger]
        heads[zone, larger] = following[pfn]
        orders[pfn] = NONE
        batch_order = order
        while (
            batch_order < min(larger, order + BATCH_ORDER)
            and (2 << (batch_order - order)) <= firsts.size - i
        ):
            batch_order += 1
        while larger > batch_order:
            larger -= 1
            upper = pfn + (1 << larger)
            head = heads[zone, larger]
            following[upper] = head
            if head != NONE:
                previous[head] = upper
            heads[zone, larger] = upper
            orders[upper] = larger
        batch = 1 << (batch_order - order)
        for j in range(batch):
            firsts[i + j] = np.uint64(pfn + (j << order))
        i += batch
    return i


@kernel
def free_blocks(blocks, order, firsts):
    """Give blocks back, each joined with its buddy as long as that is free and whole.

    Flat as `take_blocks` is. The caller has checked that each block is aligned, in one zone and
    not free.
    """
    following, previous = blocks.next, blocks.previous
    orders, heads = blocks.order, blocks.heads
    for i in range(firsts.size):
        pfn = np.int64(firsts[i])
        joined = order
        zone = 0
        while pfn >= blocks.zone_ends[zone]:
            zone += 1
        while joined < N_ORDERS - 1:
            buddy = pfn ^ (1 << joined)
            if buddy >= orders.size or orders[buddy] != joined:
                break
            # Zones start at multiples of the largest block: a whole buddy is in the same one.
            after = following[buddy]
            if heads[zone, joined] == buddy:
                heads[zone, joined] = after
            else:
                before = previous[buddy]
                following[before] = after
                if after != NONE:
                    previous[after] = before
            orders[buddy] = NONE
            pfn = min(pfn, buddy)
            joined += 1
        push(blocks, zone, joined, pfn)


@kernel
def push(blocks, zone, order, pfn):
    """Put a block at the head of its free list."""
    head = blocks.heads[zone, order]
    blocks.next[pfn] = head
    if head != NONE:
        blocks.previous[head] = pfn
    blocks.heads[zone, order] = pfn
    blocks.order[pfn] = order


@kernel
def free_range(blocks, zone, start, end):
    """Free memory as the largest aligned blocks, to be taken in ascending order."""
    while end > start:
        order = 0
        while order < N_ORDERS - 1 and end % (2 << order) == 0 and end - (2 << order) >= start:
            order += 1
        end -= 1 << order
        push(blocks, zone, order, end)


@kernel
def free_pages_in_order(blocks, pfns):
    """Make exactly these single pages free, unjoined, to be taken first to last.

    The order is kept across all memory, so the allocator has a single zone.
    """
    for i in range(pfns.size):
        pfn = np.int64(pfns[i])
        blocks.next[pfn] = np.int64(pfns[i + 1]) if i + 1 < pfns.size else NONE
        blocks.previous[pfn] = np.int64(pfns[i - 1]) if i > 0 else NONE
        blocks.order[pfn] = 0
    if pfns.size > 0:
        blocks.heads[0, 0] = np.int64(pfns[0])
