"""A hostile guest: messages and queues near the rules, and a judge of what the host did.

Everything is drawn by one xorshift generator, so a case can be made again from its seed. Most
fields are plausible and some are not: bytes at random would all be turned away at the first
check.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import ONE, ZERO
from .bitmap_v4 import make_head
from .compile import kernel
from .contents import PAGE_WORDS, SIGNATURE
from .device import answer, flush
from .formats import Decoding
from .translate import BALLOONABLE, FIRST_PAGE, N_PAGES, PAGE_BYTES
from .vring import DESC_NEXT, DESC_WRITE, ENTRIES, INDEX, describe

MESSAGE_WORDS = 48


class Guest(NamedTuple):
    """What the hostile guest writes to, and where it stands."""

    queue: tuple
    message: np.ndarray  # uint64 view of guest memory
    gpa: int  # where the guest finds `message`
    span: int  # page numbers from 0 that are worth naming
    state: np.ndarray  # uint64, shape (1,): the generator; never 0


COUNTED = "carried_out", "canaries_changed", "discards_outside", "discarded_again"
COUNTS = np.dtype([(name, np.int64) for name in COUNTED])
N_REASONS = 9


class Tallies(NamedTuple):
    """What came of the cases."""

    counts: np.ndarray  # COUNTS, shape (1,)
    stopped: np.ndarray  # int64, shape (N_REASONS,): by the reason (BAD_...)

    @classmethod
    def zero(cls) -> Tallies:
        """Return tallies of nothing."""
        return cls(np.zeros(1, COUNTS), np.zeros(N_REASONS, np.int64))


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
def _write_blocks(guest, used):
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
def _write_message(guest, decoding, used):
    """Offer a message of records or PFNs, one in 16 of another length."""
    n_bytes = _write_records(guest) if decoding == Decoding.RECORDS else _write_pfns(guest)
    if below(guest.state, 16) == 0:
        n_bytes = below(guest.state, n_bytes + 1)
    _write_queue(guest, n_bytes, used)


@kernel
def count_changed(ram, canaries):
    """Count the canary pages (numbers in `ram`) that lost their signature; mend them."""
    words = ram.view(np.uint64)
    changed = 0
    for i in range(canaries.size):
        expected = np.uint64(canaries[i]) ^ SIGNATURE
        for at in (canaries[i] * PAGE_WORDS, (canaries[i] + 1) * PAGE_WORDS - 1):
            if words[at] != expected:
                changed += 1
                words[at] = expected
    return changed


@kernel
def _outside(memory, extents):
    """Count the extents not wholly within one balloonable slot; written apart from `translate`."""
    bad = 0
    slots = memory.slots
    for i in range(extents.shape[0]):
        inside = False
        for row in range(slots.shape[0]):
            low = slots[row, FIRST_PAGE] * PAGE_BYTES
            high = low + slots[row, N_PAGES] * PAGE_BYTES
            within = low <= extents[i, 0] and extents[i, 0] + extents[i, 1] <= high
            inside |= within and slots[row, BALLOONABLE] != 0
        if not inside:
            bad += 1
    return bad


@kernel
def _again(balloon, extents, inflating):
    """Count the pages of the extents that were there already; `balloon` is moved on."""
    again = 0
    for i in range(extents.shape[0]):
        first = extents[i, 0] // PAGE_BYTES
        for page in range(first, first + extents[i, 1] // PAGE_BYTES):
            bit = ONE << np.uint64(page & 63)
            if (balloon[page >> 6] & bit != ZERO) == inflating:
                again += 1
            else:
                balloon[page >> 6] ^= bit
    return again


@kernel
def _judge(memory, device, before, in_balloon, counts):
    """Judge the extents that were discarded since their number was `before`."""
    n_extents = min(device.state[0]["n_extents"] - before, device.extents.shape[0])
    extents = device.extents[:n_extents]
    counts["discards_outside"] += _outside(memory, extents)
    counts["discarded_again"] += _again(in_balloon, extents, device.inflating)


@kernel
def run_cases(guest, memory, device, in_balloon, canaries, n_cases, tallies, log):
    """Play `n_cases` hostile messages against the device and judge each.

    Balloonable slots of `memory` must not touch each other in the mapping. The device's counters
    and faults add up over the cases; which pages are in its balloon is drawn anew for each, or for
    those that it collects.
    `in_balloon` is the judge's own account of it, shaped as ``device.balloon``. `canaries` (int64)
    are pages of the mapping that are no RAM and hold signatures.
    """
    ring, counts = guest.queue.ring, tallies.counts[0]
    used = 0
    for _ in range(n_cases):
        if device.decoding == Decoding.BLOCKS:
            _write_blocks(guest, used)
        else:
            _write_message(guest, device.decoding, used)
        if device.state[0]["held"] == 0:
            for k in range(in_balloon.size):
                in_balloon[k] = draw(guest.state) & draw(guest.state)
                device.balloon[k] = in_balloon[k]
        before = device.state[0]["n_extents"]
        outcome = answer(guest.queue, memory, device, used, log)
        log.length[0] = 0
        _judge(memory, device, before, in_balloon, counts)
        counts["canaries_changed"] += count_changed(memory.ram, canaries)
        if outcome < 0:
            tallies.stopped[-outcome] += 1  # the driver resets the device and goes on
            ring.avail[INDEX] = np.uint16(used & 0xFFFF)
        elif outcome == 1:
            counts["carried_out"] += 1
            used += 1
    before = device.state[0]["n_extents"]
    flush(device, memory, 0, log)
    log.length[0] = 0
    _judge(memory, device, before, in_balloon, counts)
    counts["canaries_changed"] += count_changed(memory.ram, canaries)
