"""The guest's balloon driver."""

from .driver import QUEUES_AT, BalloonDriver, Operation

__all__ = ["QUEUES_AT", "BalloonDriver", "Operation"]
