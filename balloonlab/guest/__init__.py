"""The guest's balloon driver."""

from .driver import DEFLATE_QUEUE_AT, INFLATE_QUEUE_AT, BalloonDriver, Operation

__all__ = ["DEFLATE_QUEUE_AT", "INFLATE_QUEUE_AT", "BalloonDriver", "Operation"]
