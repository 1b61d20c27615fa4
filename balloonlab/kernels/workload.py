"""A guest at work: blocks are taken from the allocator, kept, and given back."""

from __future__ import annotations

import numpy as np

from .buddy import NONE, free_blocks, take_blocks
from .compile import kernel

ORDER_BITS = 4
ORDER_MASK = 15
RELEASE = -1  # in the place of an order: give back what the slot holds, take nothing


@kernel
def work(blocks, held, slots, orders, taken):
    """Play events in turn: a slot gives back the block that it holds and takes another.

    `held` (int64, one per slot) is the slot's block, ``first_pfn << ORDER_BITS | order``, or
    `NONE`; `slots` (int32) is the slot of each event, `orders` (int8) the order that it takes, or
    `RELEASE`. Where there is no block of the order, the next smaller one is tried, down to a
    single page; where there is none at all, the slot stays empty. `taken` (uint64, shape (1,)) is
    scratch.
    """
    for i in range(slots.size):
        slot = slots[i]
        block = held[slot]
        if block != NONE:
            taken[0] = np.uint64(block >> ORDER_BITS)
            free_blocks(blocks, block & ORDER_MASK, taken)
            held[slot] = NONE
        order = np.int64(orders[i])
        while order >= 0:
            if take_blocks(blocks, order, taken) == 1:
                held[slot] = np.int64(taken[0]) << ORDER_BITS | order
                break
            order -= 1
