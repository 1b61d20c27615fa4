"""The guest's side: take or release pages, and send them to the host.

Two drivers, as in the seed patch. The legacy one works a message at a time, which is 256 pages. The
bitmap one takes or lists all its pages first, then sends them. The log gets interval by interval:
one clock read (24 ns) at each batch boundary. Everywhere `blocks` is a `buddy.Blocks`, `encoder` an
`encode.Encoder`, `queue` a `doorbell.Queue`, `counters` a `sending.COUNTERS` array of shape (1,),
`log` a `clock.Log`, and pages are uint64.
"""

from __future__ import annotations

from .buddy import free_blocks, take_blocks
from .clock import ALLOCATE, PACK, RELEASE, record
from .compile import kernel
from .encode import (
    batch_pages,
    begin,
    describe_records,
    encode_batch,
    encode_page,
    message_pages,
    message_used,
    next_message,
)
from .formats import Encoding
from .sending import await_used, drain, send, start, used_of
from .syscalls import now_ns
from .vring import describe


@kernel
def send_pages(pages, walked, encoder, queue, counters, log, clock):
    """Encode pages and send them, one kick per message; return the clock, -1 when the device broke.

    The last messages may be in flight then, where there is a buffer left for another.
    `pages` are not empty; `walked` is the list that holds them, which only the driver as posted
    reads; `clock` is when the interval before ended.
    """
    if encoder.encoding == Encoding.PFNS or encoder.encoding == Encoding.BLOCKS:
        n_bytes = encode_batch(encoder, pages, queue.ring)
        counters[0]["n_records"] += pages.size
        return send(n_bytes, encoder, queue, counters, log, clock)
    begin(encoder, pages)
    n_bytes = next_message(encoder, walked)
    while n_bytes > 0:
        describe_records(encoder, queue.ring, n_bytes)
        clock = send(n_bytes, encoder, queue, counters, log, clock)
        if clock < 0:
            break
        message_used(encoder)
        n_bytes = next_message(encoder, walked)
    counters[0]["n_records"] += encoder.state[0]["n_records"]
    return record(log, PACK, clock) if clock >= 0 else clock


@kernel
def _send_page(page, encoder, queue, counters, log, clock):
    """Send a single page, as migration does, and wait until the device has used it."""
    n_bytes = encode_page(encoder, page, queue.ring)
    counters[0]["n_records"] += 1
    clock = send(n_bytes, encoder, queue, counters, log, clock)
    return drain(encoder, queue, counters, log, clock)


@kernel
def inflate(blocks, pages, held, encoder, queue, counters, log):
    """Take pages, or blocks of them, from the allocator and send them.

    `pages` is the balloon's list, oldest first, with `held` entries; its free end receives the
    pages (the first ones of blocks) in the order taken. Return the entries taken, all in the list
    now; fewer than asked for when memory ran out or the device broke, in which case the last
    batch may not have been sent.
    """
    step = batch_pages(encoder, pages.size)
    taken = held
    clock = start(encoder, counters, log)
    while taken < pages.size and clock >= 0:
        batch = pages[taken : min(taken + step, pages.size)]
        n = take_blocks(blocks, encoder.block_order, batch)
        clock = record(log, ALLOCATE, clock)
        if n == 0:
            break
        taken += n
        clock = send_pages(batch[:n], pages[:taken], encoder, queue, counters, log, clock)
    drain(encoder, queue, counters, log, clock)
    counters[0]["end_ns"] = now_ns(log.cell)
    return taken - held


@kernel
def copy_newest(pages, leaving):
    """Copy the newest pages of the list into `leaving`, the newest first."""
    for i in range(leaving.size):
        leaving[i] = pages[pages.size - 1 - i]


@kernel
def deflate(blocks, pages, leaving, encoder, queue, counters, log):
    """Send the newest pages of the list (oldest first) and release them; return how many.

    The newest page goes first: ``balloon_page_dequeue`` takes the head of the list, where
    ``balloon_page_enqueue`` put it. `leaving` receives them in that order. Pages are released
    only after the device used the message, as MUST_TELL_HOST demands and Linux does in any case;
    fewer than `leaving` holds when the device broke.
    """
    step = batch_pages(encoder, leaving.size)
    clock = start(encoder, counters, log)
    sent = 0
    done = 0
    while done < leaving.size:
        if sent < leaving.size:
            batch = leaving[sent : min(sent + step, leaving.size)]
            copy_newest(pages[: pages.size - sent], batch)
            clock = send_pages(batch, batch, encoder, queue, counters, log, clock)
            sent += batch.size
        else:
            clock = await_used(encoder, queue, counters, log, clock)
        if clock < 0:
            break
        used = used_of(sent, message_pages(encoder), counters)
        if used > done:
            free_blocks(blocks, 0, leaving[done:used])
            clock = record(log, RELEASE, clock)
            done = used
    counters[0]["end_ns"] = now_ns(log.cell)
    return done


@kernel
def migrate(blocks, old, new, encoder, inflate_queue, deflate_queue, counters, log):
    """Migrate a ballooned page: inflate the new PFN, deflate the old, release that.

    `old` holds the page that leaves, `new` receives the one taken for it, shape (1,) both. Return
    0 when there was no other page; 1 when it was taken, but the device broke before the old one
    could be released; 2.
    """
    clock = start(encoder, counters, log)
    steps = take_blocks(blocks, 0, new)
    if steps == 1:
        clock = record(log, ALLOCATE, clock)
        clock = _send_page(new, encoder, inflate_queue, counters, log, clock)
        if clock >= 0:
            clock = _send_page(old, encoder, deflate_queue, counters, log, clock)
        if clock >= 0:
            steps = 2
            free_blocks(blocks, 0, old)
            record(log, RELEASE, clock)
    counters[0]["end_ns"] = now_ns(log.cell)
    return steps


@kernel
def rehearse(pages, n_pairs, encoder, queue, counters, log):
    """Send an empty message and `pages` in turn; return the pairs of kicks that were used.

    The empty message is a buffer of one byte, which names no page on any queue. In turn,
    because how long a wake-up takes changes within a second: differences between
    neighbours see the same machine. One message is in flight.
    """
    clock = start(encoder, counters, log)
    for i in range(n_pairs):
        describe(queue.ring, 0, encoder.pfns_gpa, 1, 0)
        clock = send(1, encoder, queue, counters, log, clock)
        if clock >= 0:
            clock = send_pages(pages, pages, encoder, queue, counters, log, clock)
        if clock < 0:
            return i
    return n_pairs
