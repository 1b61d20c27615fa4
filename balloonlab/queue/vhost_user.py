"""The messages of vhost-user: how a front-end in another process hands its queues to a device.

A header of three 32-bit words (request, flags, size of the payload), the payload, and file
descriptors beside it (SCM_RIGHTS). The sizes and the descriptors of every message are checked
here, so that whoever carries it out reads only what is there. After QEMU's ``docs/interop/
vhost-user.rst``; what is spoken is what Linux's virtio_uml needs.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from contextlib import suppress
from enum import IntEnum, IntFlag
from typing import NamedTuple

HEADER = struct.Struct("<III")
U64, PAIR, ADDRESSES = struct.Struct("<Q"), struct.Struct("<II"), struct.Struct("<IIQQQQ")
TABLE_HEAD, REGION, CONFIG_HEAD = (
    struct.Struct("<II"),
    struct.Struct("<QQQQ"),
    struct.Struct("<III"),
)

VERSION, VERSION_MASK, REPLY, NEED_REPLY = 1, 3, 4, 8
NO_DESCRIPTOR = 1 << 8
"""In the payload of a vring's descriptor: there is none; the vring's number is below it."""

MOST_REGIONS, MOST_CONFIG_BYTES = 8, 256
CONFIG_CHANGED = 2
"""The only request in the other direction: the device's configuration is another one now."""


class VhostUserError(RuntimeError):
    """The front-end broke a rule of vhost-user, or ended; the message says which and where."""


class Request(IntEnum):
    """What a front-end may ask for."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25


class ProtocolFeature(IntFlag):
    """What both ends agree on of vhost-user itself."""

    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9


_EMPTY = (
    Request.GET_FEATURES, Request.SET_OWNER, Request.RESET_OWNER, Request.GET_PROTOCOL_FEATURES,
    Request.SET_BACKEND_REQ_FD,
)  # fmt: skip
_WORD = (
    Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES, Request.SET_VRING_KICK,
    Request.SET_VRING_CALL, Request.SET_VRING_ERR,
)  # fmt: skip
_PAIR = (
    Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_ENABLE,
)  # fmt: skip
_SIZES = {
    **dict.fromkeys(_EMPTY, (0, 0)),
    **dict.fromkeys(_WORD, (U64.size, U64.size)),
    **dict.fromkeys(_PAIR, (PAIR.size, PAIR.size)),
    Request.SET_VRING_ADDR: (ADDRESSES.size, ADDRESSES.size),
    Request.SET_MEM_TABLE: (TABLE_HEAD.size, TABLE_HEAD.size + MOST_REGIONS * REGION.size),
    Request.GET_CONFIG: (CONFIG_HEAD.size, CONFIG_HEAD.size + MOST_CONFIG_BYTES),
    Request.SET_CONFIG: (CONFIG_HEAD.size, CONFIG_HEAD.size + MOST_CONFIG_BYTES),
}
"""The least and the greatest payload of each request, in bytes."""


class Region(NamedTuple):
    """A piece of guest memory, as the front-end says it is."""

    gpa: int
    n_bytes: int
    user_address: int  # where the front-end has it: vrings are given by that
    offset: int  # in its file


class Message(NamedTuple):
    """A request with its payload and descriptors; whoever takes it closes those."""

    request: Request
    flags: int
    payload: bytes
    fds: list[int]

    def word(self) -> int:
        """Return a payload of 64 bits."""
        return int(U64.unpack(self.payload)[0])

    def pair(self) -> tuple[int, int]:
        """Return the vring's number and what is said of it."""
        vring, value = PAIR.unpack(self.payload)
        return vring, value

    def vring_fd(self) -> tuple[int, int | None]:
        """Return a vring's number and its descriptor, None where it has none."""
        word = self.word()
        n_expected = 0 if word & NO_DESCRIPTOR else 1
        if word > 0xFF | NO_DESCRIPTOR or len(self.fds) != n_expected:
            raise VhostUserError(
                f"{self.request.name} must carry {n_expected} descriptors and a vring below 256, "
                f"got {len(self.fds)} with {word:#x}"
            )
        return word & 0xFF, self.fds[0] if self.fds else None

    def addresses(self) -> tuple[int, int, int, int]:
        """Return a vring's number and its areas at the front-end's addresses: desc, used, avail."""
        number, _, desc, used, avail, _ = ADDRESSES.unpack(self.payload)
        return number, desc, used, avail

    def regions(self) -> list[Region]:
        """Return the memory table, a descriptor for each region; room behind it may be unused."""
        n_regions, _ = TABLE_HEAD.unpack_from(self.payload)
        expected = TABLE_HEAD.size + n_regions * REGION.size
        if len(self.payload) < expected or len(self.fds) != n_regions or n_regions == 0:
            raise VhostUserError(
                f"SET_MEM_TABLE must have a region and a descriptor for each of its {n_regions} "
                f"regions, got {len(self.payload)} bytes and {len(self.fds)} descriptors"
            )
        found = REGION.iter_unpack(self.payload[TABLE_HEAD.size : expected])
        return [Region(gpa, size, user, offset) for gpa, size, user, offset in found]

    def config(self) -> tuple[int, int, bytes]:
        """Return where in the configuration, how many bytes, and the bytes."""
        offset, n_bytes, _ = CONFIG_HEAD.unpack_from(self.payload)
        data = self.payload[CONFIG_HEAD.size :]
        if n_bytes != len(data):
            raise VhostUserError(
                f"{self.request.name} must have the {n_bytes} bytes it names, got {len(data)}"
            )
        return offset, n_bytes, data

    def close(self) -> None:
        """Close the descriptors."""
        while self.fds:
            os.close(self.fds.pop())


def receive(connection: socket.socket) -> Message | None:
    """Return the next message, None at the front-end's end; a `VhostUserError` for a bad one."""
    data, fds = _read(connection, HEADER.size)
    try:
        if not data:
            return None
        number, flags, size = HEADER.unpack(data)
        request = _known(number, flags, size)
        payload, more = _read(connection, size) if size else (b"", [])
        fds += more
        if len(payload) != size:
            raise VhostUserError(f"the front-end vanished in the midst of {request.name}")
        return Message(request, flags, payload, fds)
    except VhostUserError:
        for fd in fds:
            os.close(fd)
        raise


def _known(number: int, flags: int, size: int) -> Request:
    """Return the request of a header that keeps the rules."""
    try:
        request = Request(number)
    except ValueError:
        raise VhostUserError(f"request {number} is none that this device knows") from None
    least, most = _SIZES[request]
    if not least <= size <= most:
        raise VhostUserError(f"{request.name} must have {least} to {most} bytes, got {size}")
    if flags & VERSION_MASK != VERSION or flags & ~(VERSION_MASK | NEED_REPLY):
        raise VhostUserError(f"{request.name} must be a request of version 1, got flags {flags:#x}")
    return request


def _read(connection: socket.socket, n_bytes: int) -> tuple[bytes, list[int]]:
    """Read so many bytes and the descriptors beside them; fewer bytes at the end."""
    data, fds = b"", array.array("i")
    while len(data) < n_bytes:
        room = socket.CMSG_SPACE(MOST_REGIONS * fds.itemsize)
        try:
            piece, ancillary, flags, _ = connection.recvmsg(
                n_bytes - len(data), room, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            piece, ancillary, flags = b"", [], 0
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
        if flags & socket.MSG_CTRUNC or len(fds) > MOST_REGIONS or (data and not piece):
            for fd in fds:
                os.close(fd)
            what = "vanished in mid-message" if not piece else "sent more descriptors than 8"
            raise VhostUserError(f"the front-end {what}")
        if not piece:
            break
        data += piece
    return data, list(fds)


def answer(connection: socket.socket, request: Request, payload: bytes) -> None:
    """Send the answer to a request; a front-end that is gone is found out at the next read."""
    with suppress(OSError):
        connection.sendall(HEADER.pack(request, VERSION | REPLY, len(payload)) + payload)


def announce_config(connection: socket.socket) -> None:
    """Tell the front-end that the configuration changed; raises OSError where it is gone."""
    connection.sendall(HEADER.pack(CONFIG_CHANGED, VERSION, 0))
