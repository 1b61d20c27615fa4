"""The host's side: fetch, decode, translate, discard, answer.

The message is copied, checked and turned into ranges before anything is
discarded. A bad record is counted and passed over; a corrupt queue stops the
device for good.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap_v4 import decode_records
from .clock import DECODE, DISCARD, TRANSLATE, record
from .compile import kernel
from .faults import MESSAGE
from .intrinsics import load_acquire
from .memory import discard, translate
from .pfn import FORMAT as PFN_FORMAT
from .pfn import decode_pfns
from .syscalls import now_ns, wait_event
from .vring import (
    BAD_INDEX,
    ENTRIES,
    INDEX,
    KICK,
    STOP,
    fetch,
    mark_broken,
    push_used,
)

TRANSLATIONS, DISCARDS, DISCARD_ERRORS = range(3)
"""Cells of `Device.counters`."""


class Device(NamedTuple):
    """A balloon device: how it reads messages and what it does with them."""

    format: int  # FORMAT of the format's module
    by_page: bool  # discard="page"
    inflating: bool  # the inflate queue: pages enter the balloon; else they leave it
    advice: int  # MADV_DONTNEED on the inflate queue, MADV_WILLNEED on the deflate queue
    balloon: np.ndarray  # uint64, a bit a page of the mapping; one for both queues
    copy: np.ndarray  # uint8: the longest message it takes
    words: np.ndarray  # uint64 view of `copy`
    ranges: np.ndarray  # int64, shape (4 * copy.size, 2)
    extents: np.ndarray  # int64, shape (capacity, 2)
    counters: np.ndarray  # int64, shape (3,)
    faults: np.ndarray  # see balloonlab.kernels.faults


@kernel
def _decode(device, n_bytes):
    if device.format == PFN_FORMAT:
        return decode_pfns(device.words, n_bytes, device.ranges, device.faults)
    return decode_records(device.words, n_bytes, device.ranges, device.faults)


@kernel
def _told_to_stop(ring):
    return load_acquire(ring.control, STOP) != 0


@kernel
def handle(device, ring, memory, n_bytes, clock, log):
    """Carry out the message in ``device.copy``; `clock` is when it was fetched.

    Between batches of extents it looks whether to stop: one message can name
    memory often enough to keep a device busy for hours.
    """
    device.faults[MESSAGE] += 1
    ranges = device.ranges[: _decode(device, n_bytes)]
    clock = record(log, DECODE, clock)
    position = np.zeros(4, np.int64)
    while position[0] < ranges.shape[0] and not _told_to_stop(ring):
        n = translate(
            memory,
            ranges,
            position,
            device.by_page,
            device.balloon,
            device.inflating,
            device.extents,
            device.faults,
        )
        clock = record(log, TRANSLATE, clock)
        device.counters[DISCARD_ERRORS] += discard(memory, device.extents[:n], device.advice)
        device.counters[DISCARDS] += n
        clock = record(log, DISCARD, clock)
    device.counters[TRANSLATIONS] += position[2]


@kernel
def timed_discard(memory, extents, advice):
    """Discard extents as the device would; return how many failed and the ns it took."""
    cell = np.zeros(2, np.int64)
    begin_ns = now_ns(cell)
    failed = discard(memory, extents, advice)
    return failed, now_ns(cell) - begin_ns


@kernel
def answer(ring, memory, device, used, log):
    """Answer the next kick if there is one; `used` is how many were answered before.

    Returns
    -------
    int
        1 when a message was carried out and given back, 0 when none is waiting, or
        minus the reason (BAD_...) that the queue is corrupt.
    """
    waiting = (np.int64(load_acquire(ring.avail, INDEX)) - used) & 0xFFFF
    if waiting == 0:
        return 0
    clock = now_ns(log.cell)
    if waiting > ring.desc.size:
        return -BAD_INDEX
    head = np.int64(ring.avail[ENTRIES + used % ring.desc.size])
    n_bytes = fetch(ring, memory, head, device.copy)
    if n_bytes < 0:
        return n_bytes
    handle(device, ring, memory, n_bytes, clock, log)
    push_used(ring, head, used, log.cell)
    return 1


@kernel
def serve(ring, memory, device, log):
    """Answer kicks until told to stop or until the queue is found corrupt."""
    used = 0
    while True:
        wait_event(ring.events[KICK], log.cell)
        while True:
            if _told_to_stop(ring):
                return
            outcome = answer(ring, memory, device, used, log)
            if outcome < 0:
                mark_broken(ring, -outcome, log.cell)
                return
            if outcome == 0:
                break
            used += 1
