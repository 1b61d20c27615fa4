"""The guest's side in chunks: the largest blocks that the allocator has, sent as blocks.

What the seed patch left to do: "allocating/freeing a chunk of pages instead of a single page at a
time". A block goes from the allocator's free list into the record area as the head of a record of
``bitmap-v4``, and into the driver's list as the same word: there is no page list and no bitmap.
Arguments are named as in `balloonlab.kernels.driver`.
"""

from __future__ import annotations

import numpy as np

from .bitmap_v4 import PAGE_SHIFT_4K, RECORD_WORDS, make_head, split_head
from .buddy import N_ORDERS, NONE, free_blocks
from .clock import ALLOCATE, RELEASE, record
from .compile import kernel
from .driver import copy_newest
from .encode import encode_heads, first_record
from .sending import await_used, drain, send, start, used_of
from .syscalls import now_ns


@kernel
def take_largest(blocks, n_pages, heads, area):
    """Take the largest free blocks, `n_pages` at most; return how many blocks, and their pages.

    Each is written as a record's head into `heads` and `area` (uint64, of the same size, which
    bounds the blocks). In turn for each order, from the largest down, blocks are the ones that
    `balloonlab.kernels.buddy.take_blocks` would take, while there are any and as long as a whole
    one is wanted: only the last ones are split. Flat, as that is.
    """
    following, previous = blocks.next, blocks.previous
    orders, lists = blocks.order, blocks.heads
    n = 0
    left = n_pages
    order = N_ORDERS - 1
    while order >= 0 and n < heads.size:
        n_block = 1 << order
        zone = lists.shape[0] - 1 if n_block <= left else -1
        larger = order
        while zone >= 0 and lists[zone, larger] == NONE:
            larger += 1
            if larger == N_ORDERS:
                larger = order
                zone -= 1
        if zone < 0:
            order -= 1
            continue
        pfn = lists[zone, larger]
        if larger == order:
            end = n + min(left // n_block, heads.size - n)
            while pfn != NONE and n < end:
                heads[n] = area[n] = make_head(pfn, order + PAGE_SHIFT_4K, 0)
                orders[pfn] = NONE
                pfn = np.int64(following[pfn])
                left -= n_block
                n += 1
            lists[zone, order] = pfn
            continue
        lists[zone, larger] = following[pfn]
        orders[pfn] = NONE
        while larger > order:
            larger -= 1
            upper = pfn + (1 << larger)
            head = lists[zone, larger]
            following[upper] = head
            if head != NONE:
                previous[head] = upper
            lists[zone, larger] = upper
            orders[upper] = larger
        heads[n] = area[n] = make_head(pfn, order + PAGE_SHIFT_4K, 0)
        left -= n_block
        n += 1
    return n, n_pages - left


@kernel
def _send_heads(n, encoder, queue, counters, log, clock):
    n_bytes = encode_heads(encoder, n, queue.ring)
    counters[0]["n_records"] += n
    return send(n_bytes, encoder, queue, counters, log, clock)


@kernel
def inflate_chunks(blocks, heads, held, n_pages, encoder, queue, counters, log):
    """Take blocks of `n_pages` in all and send them, a record area at a time; return how many.

    `heads` is the balloon's list, oldest first, with `held` entries and room for all that may
    come. All that were taken are in it, even if memory ran out or the device broke.
    """
    taken = held
    left = n_pages
    clock = start(encoder, counters, log)
    while left > 0 and clock >= 0:
        room = min(RECORD_WORDS, heads.size - taken)
        batch = heads[taken : taken + room]
        at = first_record(encoder)
        n, n_batch = take_largest(blocks, left, batch, encoder.records[at : at + room])
        clock = record(log, ALLOCATE, clock)
        if n == 0:
            break
        taken += n
        left -= n_batch
        clock = _send_heads(n, encoder, queue, counters, log, clock)
    drain(encoder, queue, counters, log, clock)
    counters[0]["end_ns"] = now_ns(log.cell)
    return taken - held


@kernel
def free_newest(blocks, heads, firsts):
    """Give the newest blocks of the list back, the newest first; `firsts` is scratch of as many."""
    begin = 0
    shift = PAGE_SHIFT_4K
    for i in range(firsts.size):
        pfn, next_shift, _ = split_head(heads[heads.size - 1 - i])
        if next_shift != shift:
            free_blocks(blocks, shift - PAGE_SHIFT_4K, firsts[begin:i])
            begin, shift = i, next_shift
        firsts[i] = np.uint64(pfn)
    free_blocks(blocks, shift - PAGE_SHIFT_4K, firsts[begin:])


@kernel
def deflate_chunks(blocks, heads, firsts, encoder, queue, counters, log):
    """Send the newest blocks of the list and release them; return how many.

    `firsts` (uint64) is scratch, an entry for each block that leaves. As
    `balloonlab.kernels.driver.deflate`: nothing is released before the device used the message.
    """
    clock = start(encoder, counters, log)
    sent = 0
    done = 0
    while done < firsts.size:
        if sent < firsts.size:
            n = min(RECORD_WORDS, firsts.size - sent)
            at = first_record(encoder)
            copy_newest(heads[: heads.size - sent], encoder.records[at : at + n])
            clock = _send_heads(n, encoder, queue, counters, log, clock)
            sent += n
        else:
            clock = await_used(encoder, queue, counters, log, clock)
        if clock < 0:
            break
        used = used_of(sent, RECORD_WORDS, counters)
        if used > done:
            free_newest(blocks, heads[: heads.size - done], firsts[done:used])
            clock = record(log, RELEASE, clock)
            done = used
    counters[0]["end_ns"] = now_ns(log.cell)
    return done
