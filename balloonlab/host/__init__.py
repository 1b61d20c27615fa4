"""The host: guest RAM, its memory map, and the balloon device."""

from .device import DISCARDS, BalloonDevice
from .ram import BACKINGS, GuestRam

__all__ = ["BACKINGS", "DISCARDS", "BalloonDevice", "GuestRam"]
