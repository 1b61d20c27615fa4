"""A vhost-user front-end in this process: balloonlab's own driver at its own back-end."""

from __future__ import annotations

import mmap
import os
import socket
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from ..kernels import vring
from ..kernels.doorbell import Eventfds, Queue
from ..queue import QUEUE_BYTES, QUEUE_SIZE, build_ring
from ..queue.transport import BUFFERS_AT
from ..queue.vhost_user import (
    ADDRESSES,
    HEADER,
    PAIR,
    REGION,
    TABLE_HEAD,
    U64,
    VERSION,
    ProtocolFeature,
    Request,
)
from ..queue.virtqueue import AVAIL_AT, USED_AT
from ..sizes import MIB, PAGE_BYTES
from ..wire import Feature

GPA, USER_ADDRESS = 0, 0x7F00_0000_0000
"""Where the guest and the front-end have the memory."""

OWN_BYTES = MIB
"""Behind the pages that can be ballooned: queues and messages."""


class Said(NamedTuple):
    """A message of a front-end, with the descriptors beside it."""

    request: int
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    flags: int = VERSION


class FrontEnd:
    """Memory, queues and messages of a front-end; a `balloonlab.queue.Transport`.

    Connects to the back-end at `path`. The memory is a file of `memory_pages` for the balloon and
    1 MiB for the driver, `offset` bytes into it. `names` are the queues in their order.
    """

    def __init__(
        self, path: Path, memory_pages: int, names: tuple[str, ...] = ("inflate", "deflate"),
        offset: int = 0,
    ) -> None:  # fmt: skip
        self.memory_pages, self.offset, self.names = memory_pages, offset, names
        self.n_bytes = memory_pages * PAGE_BYTES + OWN_BYTES
        self.file = os.memfd_create("balloonlab-front-end")
        os.truncate(self.file, 2 * offset + self.n_bytes)
        whole = np.frombuffer(mmap.mmap(self.file, 2 * offset + self.n_bytes), np.uint8)
        self.whole, self.ram = whole, whole[offset : offset + self.n_bytes]
        self.own_memory, self.own_gpa = self.ram[-OWN_BYTES:], GPA + self.n_bytes - OWN_BYTES
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.changes, self._channel = socket.socketpair()
        self._eventfds = {name: (os.eventfd(0), os.eventfd(0)) for name in names}
        self.queues = {
            name: Queue(build_ring(self.own_memory[self._at(name) :][:QUEUE_BYTES]), Eventfds(*fds))
            for name, fds in self._eventfds.items()
        }

    def _at(self, name: str) -> int:
        at = self.names.index(name) * QUEUE_BYTES
        return at if at < BUFFERS_AT else OWN_BYTES - QUEUE_BYTES

    def say(self, said: Said) -> None:
        """Send a message."""
        data = HEADER.pack(said.request, said.flags, len(said.payload)) + said.payload
        socket.send_fds(self.socket, [data], list(said.fds))

    def ask(self, said: Said) -> bytes:
        """Send a message and return the payload of its answer."""
        self.say(said)
        _, _, size = HEADER.unpack(self.socket.recv(HEADER.size, socket.MSG_WAITALL))
        return self.socket.recv(size, socket.MSG_WAITALL) if size else b""

    def beginning(self, accepted: Feature) -> list[Said]:
        """Return the messages up to the memory table."""
        spoken = ProtocolFeature.BACKEND_REQ | ProtocolFeature.CONFIG
        return [
            Said(Request.SET_FEATURES, U64.pack(accepted)),
            Said(Request.SET_PROTOCOL_FEATURES, U64.pack(spoken)),
            Said(Request.SET_OWNER),
            Said(Request.SET_BACKEND_REQ_FD, fds=(self._channel.fileno(),)),
            self.table([(GPA, self.n_bytes, USER_ADDRESS, self.offset)]),
        ]

    def table(self, regions: list[tuple[int, int, int, int]]) -> Said:
        """Return a memory table of regions: gpa, bytes, user address, offset in the file."""
        payload = TABLE_HEAD.pack(len(regions), 0) + b"".join(REGION.pack(*one) for one in regions)
        return Said(Request.SET_MEM_TABLE, payload, (self.file,) * len(regions))

    def vring(self, name: str) -> list[Said]:
        """Return the messages that set up a queue."""
        number, (kick, call) = self.names.index(name), self._eventfds[name]
        start = USER_ADDRESS + self.n_bytes - OWN_BYTES + self._at(name)
        areas = ADDRESSES.pack(number, 0, start, start + USED_AT, start + AVAIL_AT, 0)
        return [
            Said(Request.SET_VRING_NUM, PAIR.pack(number, QUEUE_SIZE)),
            Said(Request.SET_VRING_BASE, PAIR.pack(number, 0)),
            Said(Request.SET_VRING_ADDR, areas),
            Said(Request.SET_VRING_KICK, U64.pack(number), (kick,)),
            Said(Request.SET_VRING_CALL, U64.pack(number), (call,)),
            Said(Request.SET_VRING_ENABLE, PAIR.pack(number, 1)),
        ]

    def negotiate(self, wanted: Feature) -> Feature:
        """Settle on features and set up all queues."""
        (offered,) = U64.unpack(self.ask(Said(Request.GET_FEATURES)))
        accepted = Feature(offered) & (wanted | Feature.VERSION_1 | Feature.VHOST_USER)
        for said in self.beginning(accepted):
            self.say(said)
        for name in self.names:
            for said in self.vring(name):
                self.say(said)
        return accepted

    def offer_blocks(self, name: str, blocks: list[tuple[int, int]], command: int = -1) -> None:
        """Put blocks (first page, pages) on a queue, behind a command id if one is given."""
        ring = self.queues[name].ring
        at = BUFFERS_AT
        self.own_memory[at : at + 4] = np.frombuffer(np.int32(command).tobytes(), np.uint8)
        chain = [(self.own_gpa + at, 4, 0)] * (command >= 0)
        chain += [
            (GPA + first * PAGE_BYTES, pages * PAGE_BYTES, vring.DESC_WRITE)
            for first, pages in blocks
        ]
        for i, (gpa, n_bytes, flags) in enumerate(chain):
            follows = vring.DESC_NEXT if i + 1 < len(chain) else 0
            vring.describe(ring, i, gpa, n_bytes, flags | follows)
        vring.offer(ring)

    def kick(self, name: str) -> None:
        """Kick a queue, and wait for nothing."""
        os.eventfd_write(self._eventfds[name][0], 1)

    def check(self, outcome: int) -> None:
        """Raise nothing: the back-end says itself what broke."""

    def abort(self) -> None:
        """Vanish."""
        self.socket.close()

    def close(self) -> None:
        """Close all that is open."""
        for end in (self.socket, self.changes, self._channel):
            end.close()
        for fds in self._eventfds.values():
            for fd in fds:
                os.close(fd)
        os.close(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
