"""The host's side: fetch, decode, translate, discard, answer.

The message is copied, checked and turned into ranges before anything is discarded. A bad
record is counted and skipped; a corrupt queue stops the device for good.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bitmap import ONE, ZERO
from .clock import DECODE, DISCARD, TRANSLATE, record
from .compile import kernel
from .crew import Crew, apply
from .discard import Vectors, Verb, complete
from .doorbell import FOREVER, call, mark_broken, wait_for_kick
from .formats import Decoding, decode
from .intrinsics import load_acquire, store_release
from .syscalls import now_ns, pause
from .translate import PAGE_BYTES, translate
from .vring import BAD_INDEX, ENTRIES, INDEX, STOP, fetch, fetch_blocks, push_used

IDLE_MS = 1
"""A device that holds extents discards them when no kick has come for so long."""

STATE = np.dtype(
    [
        ("n_translations", np.int64),
        ("n_discards", np.int64),  # calls
        ("n_extents", np.int64),  # that they discarded
        ("n_discard_errors", np.int64),
        # Where `translate` stands in the message at hand:
        ("range", np.int64),  # the next range
        ("done", np.int64),  # pages of it already done
        ("n_lookups", np.int64),
        ("last_repeating", np.int64),  # one beyond the last range whose repetition is counted
        ("command", np.int64),  # the last command id of free page hinting; -1 before any
        ("n_sent", np.int64),  # ranges that messages named; beyond the room they are not kept
        ("rehearsing", np.int64),  # not 0: all is done but the discard
        ("held", np.int64),  # extents that were answered and are still to be discarded
        ("n_collected", np.int64),  # messages that these are of
    ]
)


HELD, FLUSHES = 0, 1
"""Columns of `Device.guard`: whether pages are in the balloon that the inflate queue still has to
discard, and how often it has done so."""


class Device(NamedTuple):
    """One queue of a balloon device: how it reads messages and what it does with them."""

    decoding: int  # one of `balloonlab.kernels.formats.Decoding`
    discard: int  # one of `balloonlab.kernels.discard.Discard`
    inflating: bool  # the inflate queue: pages enter the balloon; else they leave it
    verb: Verb  # what frees memory on the inflate queue, MADV_WILLNEED on the deflate queue
    balloon: np.ndarray  # uint64, a bit per page of the mapping; one for inflate and deflate
    words: np.ndarray  # uint64: room for its own copy of the longest message
    ranges: np.ndarray  # int64, shape (32 * words.size, 2)
    extents: np.ndarray  # int64, shape (capacity, 2)
    state: np.ndarray  # STATE, shape (1,)
    faults: np.ndarray  # balloonlab.kernels.faults.FAULTS, shape (1,)
    sent: (
        np.ndarray
    )  # int64, shape (room, 3): start_pfn, n_pages, ns when their message was fetched
    vectors: Vectors
    crew: Crew
    collect: int  # messages whose extents are discarded together, after they were answered
    guard: np.ndarray  # int64, shape (2,): HELD, FLUSHES; one for inflate and deflate


@kernel
def _is_to_stop(ring):
    return load_acquire(ring.control, STOP) != 0


@kernel
def _receive(device, ring, memory, head):
    """Copy a message into ``device.words``; see `vring.fetch` and `vring.fetch_blocks`."""
    if device.decoding == Decoding.BLOCKS:
        return fetch_blocks(ring, memory, head, device.words, device.state[0])
    return fetch(ring, memory, head, device.words.view(np.uint8))


@kernel
def _keep(device, ranges, time_ns):
    """Keep what a message named, in the order it came."""
    sent, n = device.sent, device.state[0]["n_sent"]
    for i in range(min(ranges.shape[0], sent.shape[0] - n)):
        sent[n + i, 0] = ranges[i, 0]
        sent[n + i, 1] = ranges[i, 1]
        sent[n + i, 2] = time_ns
    device.state[0]["n_sent"] = n + ranges.shape[0]


@kernel
def _forget(balloon, extents):
    """Take the pages of extents (bytes) out of a balloon that no other thread knows."""
    for i in range(extents.shape[0]):
        page = extents[i, 0] // PAGE_BYTES
        end = page + extents[i, 1] // PAGE_BYTES
        while page < end:
            if page & 63 == 0 and end - page >= 64:
                balloon[page >> 6] = ZERO
                page += 64
            else:
                balloon[page >> 6] &= ~(ONE << np.uint64(page & 63))
                page += 1


@kernel
def _hold(device):
    """Say that pages enter the balloon, before any does: what leaves it waits for their discard."""
    if device.inflating:
        store_release(device.guard, HELD, 1)


@kernel
def _release(device):
    """Say that nothing is left to be discarded."""
    if device.inflating:
        store_release(device.guard, HELD, 0)
        store_release(device.guard, FLUSHES, device.guard[FLUSHES] + 1)


@kernel
def flush(device, memory, clock, log):
    """Discard the extents that are held; return the clock."""
    state = device.state[0]
    extents, page_bytes = device.extents[: state["held"]], device.verb.page_bytes
    n_whole = 0
    if page_bytes > PAGE_BYTES:
        n_whole = complete(extents, device.balloon, page_bytes, device.vectors)
    if device.decoding == Decoding.BLOCKS:  # no balloon: a used block is the guest's again
        _forget(device.balloon, extents)
    if page_bytes > PAGE_BYTES:
        extents = device.vectors.whole[:n_whole]
    if state["rehearsing"] == 0:
        n_extents, n_calls, failed = apply(
            device.discard, memory, extents, device.verb, device.vectors, device.crew
        )
        state["n_extents"] += n_extents
        state["n_discards"] += n_calls
        state["n_discard_errors"] += failed
    state["held"] = 0
    state["n_collected"] = 0
    _release(device)
    return record(log, DISCARD, clock)


@kernel
def _await_flush(device, ring, cell):
    """Wait until no page is to be discarded that a deflation names: afterwards it must not be.

    Its pages are out of the balloon by now. What is held is discarded by the next flush, which the
    inflate queue's own thread makes within `IDLE_MS` of its last message; a count tells one that
    went by between two looks. A guest that deflates what it has not yet been answered for waits,
    too.
    """
    guard = device.guard
    before = load_acquire(guard, FLUSHES)
    while load_acquire(guard, HELD) != 0 and load_acquire(guard, FLUSHES) == before:
        if _is_to_stop(ring):
            break
        pause(cell)


@kernel
def handle(device, ring, memory, n_bytes, clock, log):
    """Carry out the message in ``device.words``; `clock` is when it was fetched.

    Between batches of extents it looks whether to stop: one message can name memory often enough
    to keep a device busy for hours.
    """
    device.faults[0]["message"] += 1
    n_ranges = decode(device.decoding, device.words, n_bytes, device.ranges, device.faults)
    ranges = device.ranges[:n_ranges]
    if device.sent.shape[0] > 0:
        _keep(device, ranges, clock)
    clock = record(log, DECODE, clock)
    state = device.state[0]
    _hold(device)
    state["range"] = 0
    state["done"] = 0
    state["n_lookups"] = 0
    state["last_repeating"] = 0
    while state["range"] < n_ranges and not _is_to_stop(ring):
        n = translate(memory, device, ranges)
        clock = record(log, TRANSLATE, clock)
        state["held"] = n
        if state["range"] < n_ranges:
            clock = flush(device, memory, clock, log)
            _hold(device)
    state["n_translations"] += state["n_lookups"]
    state["n_collected"] += 1
    if state["n_collected"] >= device.collect or device.decoding == Decoding.BLOCKS:
        flush(device, memory, clock, log)
    elif state["held"] == 0:
        _release(device)


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
    n_bytes = _receive(device, ring, memory, head)
    if n_bytes < 0:
        return n_bytes
    handle(device, ring, memory, n_bytes, clock, log)
    if not device.inflating:
        _await_flush(device, ring, log.cell)
    push_used(ring, head, used)
    call(queue.doorbell, ring, log.cell)
    return 1


@kernel
def _let_go(device, memory, log):
    """Discard what is held, if anything is."""
    if device.state[0]["held"] > 0:
        flush(device, memory, now_ns(log.cell), log)


@kernel
def serve(queue, memory, device, log):
    """Answer kicks until asked to stop or until the queue is found corrupt."""
    used = 0
    while True:
        patience_ms = IDLE_MS if device.state[0]["held"] > 0 else FOREVER
        if not wait_for_kick(queue.doorbell, patience_ms, log.cell):
            _let_go(device, memory, log)
        while True:
            if _is_to_stop(queue.ring):
                _let_go(device, memory, log)
                return
            outcome = answer(queue, memory, device, used, log)
            if outcome < 0:
                _let_go(device, memory, log)
                mark_broken(queue, -outcome, log.cell)
                return
            if outcome == 0:
                break
            used += 1
