"""Sending: messages go onto the queue, up to so many at a time, and are waited for.

A driver has a buffer and descriptors for each message that may be in flight, and goes from one to
the next. It waits when all are in use, and at an operation's end. `encoder` is an `encode.Encoder`,
`queue` a `doorbell.Queue`, `counters` a COUNTERS array of shape (1,), `log` a `clock.Log`.
"""

from __future__ import annotations

import numpy as np

from .clock import KICK, PACK, ROUND_TRIP, WAIT, record
from .compile import kernel
from .doorbell import NOT_USED, USED, kick, wait
from .encode import first_descriptor
from .intrinsics import store_release
from .syscalls import now_ns
from .vring import BAD_USED, BROKEN, offer, take_used

COUNTERS = np.dtype(
    [
        ("n_kicks", np.int64),
        ("wire_bytes", np.int64),
        ("n_records", np.int64),
        ("begin_ns", np.int64),  # when the operation began
        ("end_ns", np.int64),  # and ended
        ("outcome", np.int64),  # of the last kick or wait (`balloonlab.kernels.doorbell`)
        ("n_used", np.int64),  # messages used, of which none that was sent earlier was not
        ("early", np.int64),  # a bit for each buffer whose message was used before an earlier one
    ]
)
"""What an operation sent, and when, and what came back of it."""

MOST_IN_FLIGHT = 32
"""Messages on a queue of 128 descriptors, of two each; bits of ``early``."""


@kernel
def start(encoder, counters, log):
    """Begin an operation with the first buffer; return the clock."""
    encoder.state[0]["buffer"] = 0
    counters[0]["begin_ns"] = now_ns(log.cell)
    return counters[0]["begin_ns"]


@kernel
def _take_all_used(encoder, ring, state):
    """Take the entries of the used ring; return USED, NOT_USED for one of no message in flight.

    A device may use messages in any order. An operation counts on them in the order of sending:
    what was used early is kept until its turn comes.
    """
    head = take_used(ring)
    while head >= 0:
        buffer = head // 2
        message = state["n_used"] + (buffer - state["n_used"]) % encoder.in_flight
        bit = np.int64(1) << buffer
        known = head % 2 == 0 and buffer < encoder.in_flight and message < state["n_kicks"]
        if not known or state["early"] & bit != 0:
            store_release(ring.control, BROKEN, np.int64(BAD_USED))
            return NOT_USED
        state["early"] |= bit
        head = take_used(ring)
    bit = np.int64(1) << (state["n_used"] % encoder.in_flight)
    while state["early"] & bit != 0:
        state["early"] ^= bit
        state["n_used"] += 1
        bit = np.int64(1) << (state["n_used"] % encoder.in_flight)
    return USED


@kernel
def await_used(encoder, queue, counters, log, clock):
    """Wait until the earliest message in flight was used; return the clock, -1 if that failed."""
    state = counters[0]
    before = state["n_used"]
    while state["n_used"] == before:
        state["outcome"] = wait(queue.doorbell, queue.ring, log.cell)
        if state["outcome"] == USED:
            state["outcome"] = _take_all_used(encoder, queue.ring, state)
        if state["outcome"] != USED:
            return -1
    return record(log, ROUND_TRIP if encoder.in_flight == 1 else WAIT, clock)


@kernel
def send(n_bytes, encoder, queue, counters, log, clock):
    """Send the message in the encoder's buffer; return the clock when there is a free one again.

    -1 when that failed. With one message in flight, it was used then.
    """
    clock = record(log, PACK, clock)
    state = counters[0]
    offer(queue.ring, first_descriptor(encoder))
    state["outcome"] = kick(queue.doorbell, queue.ring, log.cell)
    if state["outcome"] != USED:
        return -1
    state["n_kicks"] += 1
    state["wire_bytes"] += n_bytes
    encoder.state[0]["buffer"] = state["n_kicks"] % encoder.in_flight
    if encoder.in_flight > 1:
        clock = record(log, KICK, clock)
    if state["n_kicks"] - state["n_used"] < encoder.in_flight:
        return clock
    return await_used(encoder, queue, counters, log, clock)


@kernel
def drain(encoder, queue, counters, log, clock):
    """Wait until all messages were used; return the clock, -1 if that failed, now or before."""
    while clock >= 0 and counters[0]["n_used"] < counters[0]["n_kicks"]:
        clock = await_used(encoder, queue, counters, log, clock)
    return clock


@kernel
def used_of(n_sent, n_message, counters):
    """Return how many of the entries sent were used; `n_message` are in each message but the last.

    Where `n_message` is 0, none is used before all are.
    """
    if counters[0]["n_used"] == counters[0]["n_kicks"]:
        return n_sent
    return counters[0]["n_used"] * n_message
