"""The guest's balloon driver."""

from .driver import OFFERED, QUEUES_AT, BalloonDriver, Operation

__all__ = ["OFFERED", "QUEUES_AT", "BalloonDriver", "Operation"]
