"""Sending: a message goes onto the queue, and is waited for."""

from __future__ import annotations

import numpy as np

from .clock import PACK, ROUND_TRIP, record
from .compile import kernel
from .doorbell import USED, kick_and_wait
from .vring import offer

COUNTERS = np.dtype(
    [
        ("n_kicks", np.int64),
        ("wire_bytes", np.int64),
        ("n_records", np.int64),
        ("begin_ns", np.int64),  # when the operation began
        ("end_ns", np.int64),  # and ended
        ("outcome", np.int64),  # of the last kick (`balloonlab.kernels.doorbell`)
    ]
)
"""What an operation sent, and when."""


@kernel
def send(n_bytes, queue, counters, log, clock):
    """Send the message that the descriptors name; return the clock after it, -1 if that failed."""
    clock = record(log, PACK, clock)
    offer(queue.ring)
    outcome = kick_and_wait(queue.doorbell, queue.ring, log.cell)
    counters[0]["outcome"] = outcome
    if outcome != USED:
        return -1
    counters[0]["n_kicks"] += 1
    counters[0]["wire_bytes"] += n_bytes
    return record(log, ROUND_TRIP, clock)
