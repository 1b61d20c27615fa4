"""How the message gets there: split virtqueues in guest memory, and their transports."""

from .transport import LocalTransport, Transport
from .virtqueue import QUEUE_BYTES, QUEUE_SIZE, DeviceQueue, SharedQueue, Virtqueue, build_ring
from .worker import Worker

__all__ = [
    "QUEUE_BYTES",
    "QUEUE_SIZE",
    "DeviceQueue",
    "LocalTransport",
    "SharedQueue",
    "Transport",
    "Virtqueue",
    "Worker",
    "build_ring",
]
