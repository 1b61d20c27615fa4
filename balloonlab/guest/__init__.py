"""The guest's balloon driver."""

from .driver import BalloonDriver, Inflation

__all__ = ["BalloonDriver", "Inflation"]
