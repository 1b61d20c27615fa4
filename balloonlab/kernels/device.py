"""The host's side: fetch, decode, translate, discard, answer.

The message is copied, checked and turned into ranges before anything is discarded. A bad
record is counted and skipped; a corrupt queue stops the device for good.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .clock import DECODE, DISCARD, TRANSLATE, record
from .compile import kernel
from .discard import discard
from .doorbell import call, mark_broken
from .formats import decode
from .intrinsics import load_acquire
from .syscalls import now_ns, wait_event
from .translate import translate
from .vring import BAD_INDEX, ENTRIES, INDEX, STOP, fetch, push_used

STATE = np.dtype(
    [
        ("n_translations", np.int64),
        ("n_discards", np.int64),
        ("n_discard_errors", np.int64),
        # Where `translate` stands in the message at hand:
        ("range", np.int64),  # the next range
        ("done", np.int64),  # pages of it already done
        ("n_lookups", np.int64),
        ("last_repeating", np.int64),  # one beyond the last range whose repetition is counted
    ]
)


class Device(NamedTuple):
    """One queue of a balloon device: how it reads messages and what it does with them."""

    decoding: int  # one of `balloonlab.kernels.formats.Decoding`
    discard: int  # one of `balloonlab.kernels.discard.Discard`
    inflating: bool  # the inflate queue: pages enter the balloon; else they leave it
    advice: int  # MADV_DONTNEED on the inflate queue, MADV_WILLNEED on the deflate queue
    balloon: np.ndarray  # uint64, a bit per page of the mapping; one for both queues
    words: np.ndarray  # uint64: room for its own copy of the longest message
    ranges: np.ndarray  # int64, shape (32 * words.size, 2)
    extents: np.ndarray  # int64, shape (capacity, 2)
    state: np.ndarray  # STATE, shape (1,)
    faults: np.ndarray  # balloonlab.kernels.faults.FAULTS, shape (1,)


@kernel
def _is_to_stop(ring):
    return load_acquire(ring.control, STOP) != 0


@kernel
def handle(device, ring, memory, n_bytes, clock, log):
    """Carry out the message in ``device.words``; `clock` is when it was fetched.

    Between batches of extents it looks whether to stop: one message can name memory often enough
    to keep a device busy for hours.
    """
    device.faults[0]["message"] += 1
    n_ranges = decode(device.decoding, device.words, n_bytes, device.ranges, device.faults)
    ranges = device.ranges[:n_ranges]
    clock = record(log, DECODE, clock)
    state = device.state[0]
    state["range"] = 0
    state["done"] = 0
    state["n_lookups"] = 0
    state["last_repeating"] = 0
    while state["range"] < n_ranges and not _is_to_stop(ring):
        n = translate(memory, device, ranges)
        clock = record(log, TRANSLATE, clock)
        state["n_discard_errors"] += discard(memory, device.extents[:n], device.advice)
        state["n_discards"] += n
        clock = record(log, DISCARD, clock)
    state["n_translations"] += state["n_lookups"]


@kernel
def answer(queue, memory, device, used, log):
    """Answer the next kick if there is one; `used` is how many were answered before.

    Return 1 when a message was carried out and used, 0 when none is waiting, or minus the reason
    (BAD_...) that the queue is corrupt.
    """
    ring = queue.ring
    waiting = (np.int64(load_acquire(ring.avail, INDEX)) - used) & 0xFFFF
    if waiting == 0:
        return 0
    clock = now_ns(log.cell)
    if waiting > ring.desc.size:
        return -BAD_INDEX
    head = np.int64(ring.avail[ENTRIES + used % ring.desc.size])
    n_bytes = fetch(ring, memory, head, device.words.view(np.uint8))
    if n_bytes < 0:
        return n_bytes
    handle(device, ring, memory, n_bytes, clock, log)
    push_used(ring, head, used)
    call(queue.doorbell, ring, log.cell)
    return 1


@kernel
def serve(queue, memory, device, log):
    """Answer kicks until asked to stop or until the queue is found corrupt."""
    used = 0
    while True:
        wait_event(queue.doorbell.kick, log.cell)
        while True:
            if _is_to_stop(queue.ring):
                return
            outcome = answer(queue, memory, device, used, log)
            if outcome < 0:
                mark_broken(queue, -outcome, log.cell)
                return
            if outcome == 0:
                break
            used += 1
