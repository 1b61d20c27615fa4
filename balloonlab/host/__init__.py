"""The host: guest RAM, its memory map, and the balloon device."""

from .device import BalloonDevice
from .discards import DISCARDS
from .ram import GuestRam

__all__ = ["DISCARDS", "BalloonDevice", "GuestRam"]
