"""One vring of a vhost-user session: what has been said of it, and its device."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from ..kernels import vring as kernels
from ..queue import SharedQueue
from ..queue.vhost_user import Request, VhostUserError
from ..queue.virtqueue import avail_bytes, ring_over, used_bytes
from .shared import SharedRam

if TYPE_CHECKING:
    from .device import BalloonDevice

MOST_ENTRIES = 256
"""Descriptors of a vring: what Linux's virtio_uml asks for, and what a message of blocks has."""


class Addresses(NamedTuple):
    """Where the front-end has the areas of a vring."""

    desc: int
    used: int
    avail: int


class Vring:
    """A vring by its queue's name; its parts come in any order, the device when all are there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.device: BalloonDevice | None = None
        self._queue: SharedQueue | None = None
        self._clear()

    def _clear(self) -> None:
        self._size, self._enabled = 0, False
        self._addresses: Addresses | None = None
        self._fds: dict[Request, int] = {}

    def set_number(self, request: Request, value: int) -> None:
        """Set size, base or whether it is enabled."""
        if request == Request.SET_VRING_NUM:
            self._check_idle(request)
            if not 0 < value <= MOST_ENTRIES or value & (value - 1):
                raise VhostUserError(
                    f"a vring must have 1 to {MOST_ENTRIES} entries, a power of two, got {value}"
                )
            self._size = value
        elif request == Request.SET_VRING_BASE:
            self._check_idle(request)
            if value:
                raise VhostUserError(f"a vring must begin at 0, got {value}: nothing is resumed")
        elif value == 0 and self.device is not None:
            raise VhostUserError("a vring in use cannot be disabled: GET_VRING_BASE stops it")
        else:
            self._enabled = value != 0

    def set_addresses(self, addresses: Addresses) -> None:
        """Set where the areas are."""
        self._check_idle(Request.SET_VRING_ADDR)
        self._addresses = addresses

    def set_fd(self, request: Request, fd: int | None) -> None:
        """Take the descriptor of kick or call, unless it raises; nothing is polled here."""
        if fd is None:
            raise VhostUserError(f"{request.name} must carry a descriptor: no vring is polled")
        self._check_idle(request)
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind not in (0, stat.S_IFIFO, stat.S_IFSOCK):  # an eventfd has no kind
            raise VhostUserError(f"{request.name} must carry an eventfd, a pipe or a socket")
        if request in self._fds:
            os.close(self._fds.pop(request))
        self._fds[request] = fd

    def _check_idle(self, request: Request) -> None:
        if self.device is not None:
            raise VhostUserError(f"{request.name} of a vring in use: GET_VRING_BASE stops it")

    def is_set(self) -> bool:
        """Return whether all is known that its device needs, which has not been started."""
        known = self._size and self._enabled and self._addresses and len(self._fds) == 2
        return bool(known) and self.device is None

    def build(self, ram: SharedRam) -> SharedQueue:
        """Return the queue over its areas in guest memory; a `VhostUserError` outside of it."""
        assert self._addresses is not None
        desc = ram.at(self._addresses.desc, 16 * self._size)
        avail = ram.at(self._addresses.avail, avail_bytes(self._size))
        used = ram.at(self._addresses.used, used_bytes(self._size))
        for name, area, unit in (("desc", desc, 16), ("avail", avail, 2), ("used", used, 4)):
            if area.ctypes.data % unit:
                raise VhostUserError(f"the {name} area of a vring must be aligned to {unit} bytes")
        fds = [self._fds.pop(kind) for kind in (Request.SET_VRING_KICK, Request.SET_VRING_CALL)]
        self._queue = SharedQueue(ring_over(desc, avail, used), *fds)
        return self._queue

    @property
    def broken(self) -> str | None:
        """Why the queue is broken; None while it works."""
        return self._queue.broken if self._queue else None

    def stop(self) -> None:
        """Stop the device; what it kept can still be read."""
        if self.device is not None:
            self.device.stop()

    def reset(self) -> int:
        """Stop and forget; return the messages used, modulo 2**16."""
        self.stop()
        used = int(self._queue.ring.used[kernels.INDEX]) if self._queue else 0
        self.close()
        return used

    def close(self) -> None:
        """Give back all descriptors; the device has been stopped."""
        if self._queue is not None:
            self._queue.close()
        for fd in self._fds.values():
            os.close(fd)
        self.device = self._queue = None
        self._clear()
