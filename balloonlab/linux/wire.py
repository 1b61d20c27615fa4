"""The line to a guest's program: commands, their progress, their answers."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

from .errors import GuestError

Report = Callable[[float], object]

LAST_WORDS = 12
"""Lines of the guest's console in an error message."""


def nobody(progress: float) -> None:
    """Report progress to nobody."""


class Wire:
    """A guest's second serial port, which is our `end` of a socket pair.

    A guest that is silent for `patience_s`, which may be set at any time, counts as hung; it
    reports 50 times per command. `explain` makes an error of what happened, with the end of the
    guest's console. `host` is the process that ends with its guest.
    """

    def __init__(
        self, end: socket.socket, patience_s: float, host: str, explain: Callable[[str], GuestError]
    ) -> None:
        self._end, self.patience_s, self._host, self._explain = end, patience_s, host, explain
        self._lines = end.makefile("rb")

    def run(self, command: str, report: Report = nobody) -> str:
        """Give the guest a command, report the share that is done, and return its answer."""
        self._act(lambda: self._end.sendall(command.encode() + b"\n"))
        return self.expect("ok", report)

    def read(self, path: str) -> str:
        """Read a file of the guest."""
        n_bytes = int(self.run(f"cat {path}").split()[1])
        return self._act(lambda: self._lines.read(n_bytes)).decode()

    def meminfo(self, name: str) -> int:
        """Return an entry of the guest's ``/proc/meminfo`` in bytes."""
        found = re.search(rf"{name}:\s+(\d+) kB", self.read("/proc/meminfo"))
        if not found:
            raise self._explain(f"the guest's /proc/meminfo has no {name}: Linux 3.14 or later")
        return int(found[1]) << 10

    def buddyinfo(self) -> dict[str, list[int]]:
        """Return the guest's free blocks of order 0, 1 and so on, by zone."""
        found = re.findall(r"zone\s+(\w+)\s+([\d ]+)", self.read("/proc/buddyinfo"))
        return {zone: [int(count) for count in counts.split()] for zone, counts in found}

    def expect(self, word: str, report: Report = nobody) -> str:
        """Read the guest's answers up to one that begins with `word`."""
        while True:
            line = self._act(self._lines.readline).decode("utf-8", "replace").strip()
            if line.startswith("at "):
                _, done, total = line.split()
                report(int(done) / int(total))
            elif line.split()[:1] == [word]:
                return line
            else:
                raise self._explain(f"the guest answered {line!r}, not {word}")

    def _act(self, act: Callable[[], bytes | None]) -> bytes:
        self._end.settimeout(self.patience_s)
        try:
            got = act()
        except TimeoutError:
            raise self._explain(f"the guest was silent for {self.patience_s:g} s") from None
        except OSError:
            got = b""
        if got == b"":
            raise self._explain(f"{self._host} ended, most likely since its guest did")
        return got or b""

    def close(self) -> None:
        """Close our end."""
        self._lines.close()
        self._end.close()


def explained(what: str, errors: str, console: str) -> GuestError:
    """Return an error with the last lines of what a host and a guest's kernel printed."""
    ends = [
        [line.strip() for line in text.splitlines() if line.strip()] for text in (errors, console)
    ]
    panics = [line for line in ends[1][:-LAST_WORDS] if "Kernel panic" in line]
    return GuestError("\n".join([what, *ends[0][-LAST_WORDS:], *panics, *ends[1][-LAST_WORDS:]]))
