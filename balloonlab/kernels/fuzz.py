"""The judge of a host that a hostile guest plays against, by what it discarded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import ONE, ZERO
from .compile import kernel
from .contents import PAGE_WORDS, SIGNATURE
from .device import answer, flush
from .formats import Decoding
from .hostile import draw, write_blocks, write_message
from .translate import BALLOONABLE, FIRST_PAGE, N_PAGES, PAGE_BYTES
from .vring import INDEX

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
            write_blocks(guest, used)
        else:
            write_message(guest, device.decoding, used)
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
