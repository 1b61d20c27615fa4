"""The host: guest RAM, its memory map, and the balloon device."""

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
from .ram import BACKINGS, GuestRam

__all__ = [
    "BACKINGS", "DISCARDS", "MOST_COLLECTED", "MOST_THREADS", "MOST_VECTORS", "POLICIES",
    "VECTORED", "BalloonDevice", "GuestRam", "Policy", "check_vectored", "host_policies",
    "host_policy",
]  # fmt: skip
