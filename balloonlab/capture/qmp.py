"""QEMU's monitor protocol: commands in JSON over a socket."""

from __future__ import annotations

import json
import socket
from typing import Any

from ..linux.errors import GuestError


class Monitor:
    """The client's side of a QMP connection; its timeout is how long an answer may take."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        if "QMP" not in self._read():
            raise GuestError("QEMU's monitor did not greet as QMP does")
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command and return its result."""
        message = {"execute": name} | ({"arguments": arguments} if arguments else {})
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise GuestError(f"QEMU ended before the command {name}: {error}") from None
        while True:
            answer = self._read()
            if "error" in answer:
                raise GuestError(f"QEMU refused {name}: {answer['error'].get('desc', answer)}")
            if "return" in answer:
                return answer["return"]  # anything else is an event

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._connection.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            seconds = self._connection.gettimeout()
            raise GuestError(f"QEMU's monitor gave no answer for {seconds:g} s") from None
        except OSError as error:
            raise GuestError(f"QEMU's monitor broke off: {error}") from None
        if not line:
            raise GuestError("QEMU ended")
        return json.loads(line)
