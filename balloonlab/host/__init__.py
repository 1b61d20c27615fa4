"""The host: guest RAM, its memory map, and the balloon device."""

from .device import DISCARDS, BalloonDevice
from .ram import GuestRam

__all__ = ["DISCARDS", "BalloonDevice", "GuestRam"]
