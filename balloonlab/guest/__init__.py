"""The guest's balloon driver."""

from .buffers import QUEUES_AT
from .driver import OFFERED, BalloonDriver
from .operation import Operation

__all__ = ["OFFERED", "QUEUES_AT", "BalloonDriver", "Operation"]
