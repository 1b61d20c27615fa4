"""The host: guest RAM, its memory map, and the balloon device."""

from .device import BalloonDevice
from .policy import DISCARDS, POLICIES, Policy, check_vectored, host_policies
from .ram import BACKINGS, GuestRam

__all__ = [
    "BACKINGS", "DISCARDS", "POLICIES", "BalloonDevice", "GuestRam", "Policy", "check_vectored",
    "host_policies",
]  # fmt: skip
