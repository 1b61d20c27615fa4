"""QEMU's qtest protocol: registers and guest memory by lines of text over a socket."""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Callable

TIMEOUT_S = 60
"""How long an answer may take; a register write or 16 MiB of memory take milliseconds."""


class QemuError(RuntimeError):
    """QEMU is missing, too old, died, or answered what it must not; the message says which."""


class Qtest:
    """A client of ``-qtest`` (``docs/devel/testing/qtest.rst`` in QEMU).

    `channel` is connected to QEMU. Its timeout is the socket's own (``SO_RCVTIMEO``), so that
    compiled code which reads the descriptor has it too. `explain` returns what became of QEMU when
    it does not answer.
    """

    def __init__(self, channel: socket.socket, explain: Callable[[], str]) -> None:
        self._channel, self._explain = channel, explain
        timeout = struct.pack("@qq", TIMEOUT_S, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            channel.setsockopt(socket.SOL_SOCKET, option, timeout)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._channel.fileno()

    def command(self, line: str) -> str:
        """Send a line; return what follows ``OK`` in the answer, a QemuError for any other."""
        parts: list[bytes] = []
        try:
            self._channel.sendall(line.encode() + b"\n")
            while not parts or not parts[-1].endswith(b"\n"):
                parts.append(self._channel.recv(1 << 20))
                if not parts[-1]:
                    raise QemuError(self._explain())
        except OSError:
            raise QemuError(self._explain()) from None
        status, _, value = b"".join(parts).decode().strip().partition(" ")
        if status != "OK":
            raise QemuError(f"QEMU refused the qtest command {line[:60]!r}: {status} {value}")
        return value

    def readl(self, gpa: int) -> int:
        """Read a 32-bit register."""
        return int(self.command(f"readl {gpa:#x}"), 16)

    def writel(self, gpa: int, value: int) -> None:
        """Write a 32-bit register."""
        self.command(f"writel {gpa:#x} {value:#x}")

    def memset(self, gpa: int, n_bytes: int, value: int) -> None:
        """Fill guest memory with a byte."""
        self.command(f"memset {gpa:#x} {n_bytes:#x} {value:#x}")

    def read(self, gpa: int, n_bytes: int) -> bytes:
        """Read guest memory."""
        return base64.b64decode(self.command(f"b64read {gpa:#x} {n_bytes:#x}"))
