"""The host: guest RAM, its memory map, and the balloon device."""

from .backing import BACKINGS, VERBS
from .device import BalloonDevice
from .policy import (
    DISCARDS,
    MOST_COLLECTED,
    MOST_THREADS,
    MOST_VECTORS,
    POLICIES,
    VECTORED,
    Policy,
    check_vectored,
    host_policies,
    host_policy,
)
from .ram import GuestRam

__all__ = [
    "BACKINGS", "DISCARDS", "MOST_COLLECTED", "MOST_THREADS", "MOST_VECTORS", "POLICIES",
    "VECTORED", "VERBS", "BalloonDevice", "GuestRam", "Policy", "check_vectored", "host_policies",
    "host_policy",
]  # fmt: skip
