"""The guest's side: take or give back pages, and tell the host.

Two drivers, as in the seed patch. The legacy one works 256 pages at a time. The
bitmap one takes or lists all its pages first, then tells them. Interval by interval
goes to the log: one clock read (24 ns) at each batch boundary.
"""

from __future__ import annotations

from .buddy import free_blocks, take_blocks
from .clock import ALLOCATE, RELEASE, record
from .compile import kernel
from .syscalls import now_ns
from .tell import BEGIN_NS, END_NS, batch_pages, tell, tell_page


@kernel
def inflate(blocks, pages, held, message, ring, counters, log):
    """Take pages from the allocator and tell them.

    Parameters
    ----------
    blocks : balloonlab.kernels.buddy.Blocks
        The guest's allocator.
    pages : uint64 array, shape (held + n,)
        The balloon's list, oldest first; its free end receives the pages in the
        order taken.
    held : int
        Pages in the list before.
    message : balloonlab.kernels.tell.Message
    ring : balloonlab.kernels.vring.Ring
        The inflate queue.
    counters : int64 array, shape (5,)
    log : balloonlab.kernels.clock.Log

    Returns
    -------
    int
        Pages taken, all of them in the list now; fewer than n when memory ran out or
        the device broke, in which case the last batch may not have been told.
    """
    step = batch_pages(message, pages.size)
    taken = held
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    while taken < pages.size and clock >= 0:
        batch = pages[taken : min(taken + step, pages.size)]
        n = take_blocks(blocks, 0, batch)
        clock = record(log, ALLOCATE, clock)
        if n == 0:
            break
        taken += n
        clock = tell(batch[:n], pages[:taken], message, ring, counters, log, clock)
    counters[END_NS] = now_ns(log.cell)
    return taken - held


@kernel
def copy_newest(pages, leaving):
    """Copy the newest pages of the list into `leaving`, the newest first."""
    for i in range(leaving.size):
        leaving[i] = pages[pages.size - 1 - i]


@kernel
def deflate(blocks, pages, leaving, message, ring, counters, log):
    """Tell the newest pages and release them.

    The newest page goes first: ``balloon_page_dequeue`` takes the head of the list,
    where ``balloon_page_enqueue`` put it. Pages are released only after the host was
    told, as MUST_TELL_HOST demands and Linux does in any case.

    Parameters
    ----------
    pages : uint64 array
        The balloon's list, oldest first.
    leaving : uint64 array, shape (n,)
        Receives the pages that leave, newest first; n is at most the list's length.
    ring : balloonlab.kernels.vring.Ring
        The deflate queue.
    blocks, message, counters, log
        As in `inflate`.

    Returns
    -------
    int
        Pages released; fewer than n when the device broke.
    """
    step = batch_pages(message, leaving.size)
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    done = 0
    while done < leaving.size:
        batch = leaving[done : min(done + step, leaving.size)]
        copy_newest(pages[: pages.size - done], batch)
        clock = tell(batch, batch, message, ring, counters, log, clock)
        if clock < 0:
            break
        free_blocks(blocks, 0, batch)
        clock = record(log, RELEASE, clock)
        done += batch.size
    counters[END_NS] = now_ns(log.cell)
    return done


@kernel
def migrate(blocks, old, new, message, inflate_ring, deflate_ring, counters, log):
    """Put another page in the place of one: tell the new one, then the old one, release that.

    Parameters
    ----------
    old, new : uint64 arrays, shape (1,)
        The page that leaves; receives the page taken for it.
    inflate_ring, deflate_ring : balloonlab.kernels.vring.Ring
    blocks, message, counters, log
        As in `inflate`.

    Returns
    -------
    int
        0 when there was no other page; 1 when it was taken, but the device broke before
        the old one could be released; 2.
    """
    clock = now_ns(log.cell)
    counters[BEGIN_NS] = clock
    steps = take_blocks(blocks, 0, new)
    if steps == 1:
        clock = record(log, ALLOCATE, clock)
        clock = tell_page(new, message, inflate_ring, counters, log, clock)
        if clock >= 0:
            clock = tell_page(old, message, deflate_ring, counters, log, clock)
        if clock >= 0:
            steps = 2
            free_blocks(blocks, 0, old)
            record(log, RELEASE, clock)
    counters[END_NS] = now_ns(log.cell)
    return steps
