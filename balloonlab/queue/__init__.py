"""How the message gets there: a split virtqueue in shared memory, with eventfds."""

from .virtqueue import QUEUE_BYTES, QUEUE_SIZE, Virtqueue
from .worker import Worker

__all__ = ["QUEUE_BYTES", "QUEUE_SIZE", "Virtqueue", "Worker"]
