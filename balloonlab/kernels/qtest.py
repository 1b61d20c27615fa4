"""The driver against a QEMU process: messages in shared memory, each kick a line of qtest.

QEMU handles the queue while it carries out the line's register write, and answers the
line after that: its answer is the call. Nothing polls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .buddy import free_blocks, take_blocks
from .clock import ALLOCATE, PACK, RELEASE, ROUND_TRIP, record
from .compile import kernel
from .driver import copy_newest
from .intrinsics import fence, load_acquire, store_release
from .pfn import write_pfns
from .syscalls import now_ns, receive_bytes, send_bytes
from .tell import BEGIN_NS, END_NS, KICKS, RECORDS, WIRE_BYTES
from .vring import DESC_NEXT, DESC_WRITE, ENTRIES, INDEX

DESCRIPTOR_BYTES = 16
PAGE_SHIFT = 12

ANSWERED, NO_ANSWER, REFUSED, NOT_USED = range(4)
"""What came of a kick."""

OUTCOME = 5
N_COUNTERS = 6
"""Cells of the counters: those of `balloonlab.kernels.tell`, then the last kick's outcome."""

_NEWLINE, _O, _K = 10, 79, 75


class Link(NamedTuple):
    """One queue of QEMU's device: how it is kicked, and what its messages are made of."""

    fd: int  # the qtest socket
    request: np.ndarray  # uint8: the line that writes the queue's number to QueueNotify
    reply: np.ndarray  # uint8, shape (64,)
    pfns: np.ndarray  # uint32, shape (256,), in guest memory
    gpa: int  # where the guest finds `pfns`
    block_bytes: int  # length of the blocks that descriptors tell, 0 where PFNs are told


@kernel
def kick(ring, link):
    """Offer the chain at descriptor 0, kick, and wait for QEMU's answer; its outcome."""
    size = ring.desc.size
    index = np.int64(ring.avail[INDEX])
    ring.avail[ENTRIES + index % size] = np.uint16(0)
    store_release(ring.avail, INDEX, np.uint16((index + 1) & 0xFFFF))
    fence()
    if send_bytes(link.fd, link.request) != link.request.size:
        return NO_ANSWER
    n = 0
    while n == 0 or link.reply[n - 1] != _NEWLINE:
        got = receive_bytes(link.fd, link.reply[n:])
        if got <= 0:
            return NO_ANSWER if n < link.reply.size else REFUSED
        n += got
    if n != 3 or link.reply[0] != _O or link.reply[1] != _K:
        return REFUSED
    used = np.int64(load_acquire(ring.used, INDEX))
    if used != (index + 1) & 0xFFFF or ring.used_ring[index % size]["id"] != 0:
        return NOT_USED
    return ANSWERED


@kernel
def _describe(ring, i, gpa, n_bytes, flags):
    ring.desc[i]["addr"] = np.uint64(gpa)
    ring.desc[i]["len"] = np.uint32(n_bytes)
    ring.desc[i]["flags"] = np.uint16(flags)
    ring.desc[i]["next"] = np.uint16(i + 1 if flags & DESC_NEXT != 0 else 0)


@kernel
def write_message(batch, ring, link):
    """Write a message for a batch of pages or of blocks; return its bytes.

    PFNs go into one buffer; blocks are the chain's own descriptors, device-writable, as
    free page reporting posts them. An empty batch gives a buffer of one byte, which
    names no page on any of the device's queues: the empty round trip.
    """
    n = batch.size
    if n == 0:
        _describe(ring, 0, link.gpa, 1, 0)
        return 1
    if link.block_bytes == 0:
        write_pfns(batch, link.pfns)
        _describe(ring, 0, link.gpa, 4 * n, 0)
        return 4 * n
    for i in range(n):
        flags = DESC_WRITE | DESC_NEXT if i + 1 < n else DESC_WRITE
        _describe(ring, i, np.int64(batch[i]) << PAGE_SHIFT, link.block_bytes, flags)
    return DESCRIPTOR_BYTES * n


@kernel
def tell(batch, ring, link, counters, log, clock):
    """Tell a batch in one kick; the clock after it, -1 when QEMU did not take it."""
    n_bytes = write_message(batch, ring, link)
    clock = record(log, PACK, clock)
    counters[OUTCOME] = kick(ring, link)
    if counters[OUTCOME] != ANSWERED:
        return -1
    counters[KICKS] += 1
    counters[WIRE_BYTES] += n_bytes
    counters[RECORDS] += batch.size
    return record(log, ROUND_TRIP, clock)


@kernel
def rehearse(batch, n_pairs, ring, link, counters, log):
    """Tell nothing and `batch` in turn; return the pairs of kicks that QEMU took.

    In turn, because how long a wake-up takes changes within a second: differences
    between neighbours see the same machine.
    """
    clock = now_ns(log.cell)
    for i in range(n_pairs):
        for told in (batch[:0], batch):
            clock = tell(told, ring, link, counters, log, clock)
            if clock < 0:
                return i
    return n_pairs


@kernel
def inflate(blocks, order, step, firsts, ring, link, counters, log):
    """Take blocks from the allocator and tell them, `step` of them a kick.

    Parameters
    ----------
    blocks : balloonlab.kernels.buddy.Blocks
    order : int
        Each block has ``2**order`` pages; 0 for PFNs.
    step : int
    firsts : uint64 array, shape (n,)
        Receives the first page of each block, in the order taken.
    ring : balloonlab.kernels.vring.Ring
    link : Link
    counters : int64 array, shape (N_COUNTERS,)
    log : balloonlab.kernels.clock.Log

    Returns
    -------
    int
        Blocks told; fewer than n when memory ran out or QEMU did not answer.
    """
    told = 0
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    while told < firsts.size:
        batch = firsts[told : min(told + step, firsts.size)]
        n = take_blocks(blocks, order, batch)
        clock = record(log, ALLOCATE, clock)
        if n == 0:
            break
        clock = tell(batch[:n], ring, link, counters, log, clock)
        if clock < 0:
            break
        told += n
    counters[END_NS] = now_ns(log.cell)
    return told


@kernel
def deflate(blocks, step, pages, leaving, ring, link, counters, log):
    """Tell the pages of a balloon, the newest first, and release each batch once it is told.

    Parameters as of `inflate`; `pages` is the balloon's list, `leaving` (uint64 array of
    its length) receives them newest first. Returns the pages released.
    """
    done = 0
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    while done < leaving.size:
        batch = leaving[done : min(done + step, leaving.size)]
        copy_newest(pages[: pages.size - done], batch)
        clock = tell(batch, ring, link, counters, log, clock)
        if clock < 0:
            break
        free_blocks(blocks, 0, batch)
        clock = record(log, RELEASE, clock)
        done += batch.size
    counters[END_NS] = now_ns(log.cell)
    return done
