"""A hostile guest: messages and queues near the rules, of every format.

Everything is drawn by one xorshift generator, so a case can be made again from its seed. Most
fields are plausible and some are not: bytes at random would all be turned away at the first
check.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .adaptive_plan import PFNS, RUN
from .bitmap import ZERO
from .bitmap_v4 import make_head
from .compile import kernel
from .formats import Decoding
from .vring import DESC_NEXT, DESC_WRITE, ENTRIES, INDEX, describe

MESSAGE_WORDS = 48


class Guest(NamedTuple):
    """What the hostile guest writes to, and where it stands."""

    queue: tuple
    message: np.ndarray  # uint64 view of guest memory
    gpa: int  # where the guest finds `message`
    span: int  # page numbers from 0 that are worth naming
    state: np.ndarray  # uint64, shape (1,): the generator; never 0


@kernel
def draw(state):
    """Draw 64 random bits (Marsaglia's xorshift64)."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return x


@kernel
def below(state, n):
    """Draw a number from 0 to n - 1."""
    return np.int64(draw(state) >> np.uint64(1)) % n


@kernel
def _page(guest):
    """Draw a page number: most near the guest's memory, some anywhere."""
    if below(guest.state, 8) > 0:
        return draw(guest.state) % np.uint64(guest.span)
    return draw(guest.state) >> np.uint64(below(guest.state, 64))


@kernel
def _write_pfns(guest):
    n = below(guest.state, 2 * MESSAGE_WORDS)
    for i in range(n // 2 + 1):
        low = _page(guest) & np.uint64(0xFFFFFFFF)
        guest.message[i] = low | ((_page(guest) & np.uint64(0xFFFFFFFF)) << np.uint64(32))
    return 4 * n


@kernel
def _write_records(guest):
    state = guest.state
    n = below(state, MESSAGE_WORDS - 9)
    at = 1
    while at <= n:
        shift = 12
        bmap_words = below(state, 3)
        if bmap_words == 0:
            shift += below(state, 6)
        odd = below(state, 16)
        if odd == 0:
            shift = below(state, 64)
        if odd == 1:
            bmap_words = below(state, 8)
        bmap_len = 8 * bmap_words if odd != 2 else below(state, 64)
        pfn = _page(guest) & np.uint64((1 << 52) - 1)
        guest.message[at] = make_head(pfn, shift, bmap_len)
        for k in range(bmap_words):
            guest.message[at + 1 + k] = draw(state) & draw(state)
        at += 1 + bmap_words
    data_len = 8 * (at - 1)
    if below(state, 16) == 0:
        data_len = below(state, 1 << (1 + below(state, 32)))
    cmd = 1 if below(state, 64) == 0 else 0
    guest.message[0] = np.uint64(cmd) | (np.uint64(data_len) << np.uint64(32))
    return 8 * at


@kernel
def _write_raw(guest):
    """Write a header and a bitmap; one field in some is at random."""
    state, message = guest.state, guest.message
    n = below(state, MESSAGE_WORDS - 13)
    odd = below(state, 16)
    message[0] = np.uint64(12 << 16) if odd > 0 else draw(state) >> np.uint64(below(state, 64))
    message[1] = ZERO
    message[2] = _page(guest)
    message[3] = np.uint64(8 * n) if odd != 1 else draw(state) >> np.uint64(below(state, 64))
    for i in range(n):
        message[4 + i] = draw(state) & draw(state)
    return 8 * (4 + n)


@kernel
def _write_segments(guest):
    """Write heads of every kind and what they count; one head in 16 is at random."""
    state, message = guest.state, guest.message
    n = 1 + below(state, MESSAGE_WORDS - 9)
    at = 0
    while at < n:
        kind, page, count = np.uint64(below(state, 6)), _page(guest), np.uint64(below(state, 8))
        head = kind | (page >> np.uint64(6)) << np.uint64(3) | count << np.uint64(36)
        if kind == np.uint64(RUN):
            head = page << np.uint64(3) | count << np.uint64(42)
        if kind == np.uint64(PFNS):
            head = kind | count << np.uint64(3)
        if below(state, 16) == 0:
            head = draw(state) >> np.uint64(below(state, 64))
        message[at] = head
        at += 1
        while at < n and below(state, 3) > 0:
            message[at] = _page(guest) | _page(guest) << np.uint64(32)
            at += 1
    return 8 * n - 2 * below(state, 4)


@kernel
def _write_runs(guest, decoding):
    """Write records of runs; one in 16 is at random."""
    state, message = guest.state, guest.message
    n = 1 + below(state, MESSAGE_WORDS - 9)
    for i in range(n):
        page, count = _page(guest), np.uint64(below(state, 8))
        message[i] = page << np.uint64(12) | count
        if decoding == Decoding.CONT_PAGES:
            message[i] = page | count << np.uint64(32)
        if decoding == Decoding.DESC_V11:
            message[i] = (page if i & 1 == 0 else count) << np.uint64(12)
        if below(state, 16) == 0:
            message[i] = draw(state) >> np.uint64(below(state, 64))
    if decoding == Decoding.CHUNK_V7 and below(state, 8) > 0:
        message[0] = np.uint64(n - 1)
    return 8 * n


@kernel
def _write_any(guest, decoding):
    """Write a message of the format into the guest's memory; return its bytes."""
    if decoding == Decoding.PFNS:
        return _write_pfns(guest)
    if decoding == Decoding.RECORDS:
        return _write_records(guest)
    if decoding == Decoding.RAW:
        return _write_raw(guest)
    if decoding == Decoding.SEGMENTS:
        return _write_segments(guest)
    return _write_runs(guest, decoding)


@kernel
def _write_queue(guest, n_bytes, used):
    """Offer the message, cut into a chain."""
    state, ring = guest.state, guest.queue.ring
    parts = 1 + below(state, 3)
    done = 0
    for i in range(parts):
        length = n_bytes - done if i + 1 == parts else below(state, n_bytes - done + 1)
        describe(ring, i, guest.gpa + done, length, DESC_NEXT if i + 1 < parts else 0)
        ring.desc[i]["next"] = np.uint16(i + 1)
        done += length
    _offer_spoilt(guest, parts, used)


@kernel
def write_blocks(guest, used):
    """Offer blocks of pages, and now and then a command id; one field in some is at random."""
    state, ring = guest.state, guest.queue.ring
    parts = 1 + below(state, 6)
    for i in range(parts):
        gpa = (_page(guest) & np.uint64((1 << 51) - 1)) << np.uint64(12)
        length = (1 + below(state, 8)) << 12
        flags = DESC_WRITE
        odd = below(state, 16)
        if odd == 0:
            gpa |= draw(state) >> np.uint64(below(state, 64))
        if odd == 1:
            length = np.int64(draw(state) & np.uint64(0xFFFFFFFF)) >> below(state, 32)
        if odd == 2:
            gpa, length, flags = np.uint64(guest.gpa), 4 if below(state, 4) > 0 else length, 0
        describe(ring, i, gpa, length, flags | (DESC_NEXT if i + 1 < parts else 0))
        ring.desc[i]["next"] = np.uint16(i + 1)
    _offer_spoilt(guest, parts, used)


@kernel
def _offer_spoilt(guest, parts, used):
    """Make a chain of so many descriptors available; of one in eight a field is at random."""
    state, ring = guest.state, guest.queue.ring
    head = 0
    ahead = 1
    spoilt = below(state, 64)
    i = below(state, parts)
    wild = draw(state) >> np.uint64(below(state, 64))
    if spoilt == 0:
        ring.desc[i]["addr"] = wild
    if spoilt == 1:
        ring.desc[i]["len"] = np.uint32(wild & np.uint64(0xFFFFFFFF))
    if spoilt == 2:
        ring.desc[i]["flags"] = np.uint16(wild & np.uint64(7))
    if spoilt == 3:
        ring.desc[i]["flags"] = np.uint16(DESC_NEXT)
        ring.desc[i]["next"] = np.uint16(wild & np.uint64(0xFFFF))
    if spoilt == 4:
        ring.desc[i]["addr"] = np.uint64(_page(guest) & np.uint64((1 << 51) - 1)) << np.uint64(12)
    if spoilt == 5:
        head = np.int64(wild & np.uint64(0xFFFF))
    if spoilt == 6:
        ahead = np.int64(wild & np.uint64(0xFFFF))
    if spoilt == 7:
        ring.desc[parts - 1]["flags"] = np.uint16(DESC_NEXT)
        ring.desc[parts - 1]["next"] = np.uint16(0)
    ring.avail[ENTRIES + used % ring.desc.size] = np.uint16(head)
    ring.avail[INDEX] = np.uint16((used + ahead) & 0xFFFF)


@kernel
def write_message(guest, decoding, used):
    """Offer a message of the format, one in 16 of another length."""
    n_bytes = _write_any(guest, decoding)
    if below(guest.state, 16) == 0:
        n_bytes = below(guest.state, n_bytes + 1)
    _write_queue(guest, n_bytes, used)
