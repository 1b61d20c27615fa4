"""What the host holds of a QEMU guest's RAM: the kernel's account, read from ``/proc``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from ..address_map import HIGH_RAM_START, LOW_RAM_END
from ..host.ram import Mapped, mapped_within
from ..sizes import MIB, PAGE_BYTES
from .qtest import QemuError

FIRMWARE = slice(0xE0, 0x100)
"""Pages of guest RAM over which a PC's firmware stands (16 of them, or 32). They can be ballooned;
what QEMU then discards is the firmware's memory, and what lies behind it nobody ever sees."""

_PRESENT = np.uint64(1 << 63)
_FILE = "/memfd:memory-backend-memfd"
_ANONYMOUS, _SHARED = r"p 0+ 00:00 0\s*$", rf"s 0+ \S+ \d+ +{_FILE}"
_MAPPING = re.compile(rf"([0-9a-f]+)-([0-9a-f]+) rw-(?:{_ANONYMOUS}|{_SHARED})")
_STEP_PAGES = 16 * MIB // PAGE_BYTES


def page_index(pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Turn page numbers of RAM into positions in QEMU's memory backend, in pages."""
    pages = pfns.astype(np.int64)
    return np.where(pages < LOW_RAM_END, pages, pages - HIGH_RAM_START + LOW_RAM_END)


class HostView:
    """The mapping of a guest's RAM in QEMU's process, its only one of that size.

    Parameters
    ----------
    pid, memory_pages : int
        A child of this process, so that it may be looked into; the guest's RAM.
    backing : {'anonymous', 'memfd', 'hugetlb'}
        What is behind it.

    Raises
    ------
    QemuError
        There is not exactly one such mapping, or the process is gone; that, too, from any method.
    """

    def __init__(self, pid: int, memory_pages: int, backing: str = "anonymous") -> None:
        self._folder = Path(f"/proc/{pid}")
        self.memory_pages, self._shared = memory_pages, backing != "anonymous"
        n_bytes = memory_pages * PAGE_BYTES
        matches = map(_MAPPING.match, self._read("maps").decode().splitlines())
        mapped = [(int(match[1], 16), int(match[2], 16)) for match in matches if match]
        found = [start for start, end in mapped if end - start == n_bytes]
        if len(found) != 1:
            raise QemuError(
                f"QEMU has {len(found)} mappings of {n_bytes} bytes "
                "where guest RAM should be the only one: choose another memory="
            )
        self.start = found[0]

    def _read(self, name: str, offset: int = 0, n_bytes: int = 0) -> bytes:
        """Read `n_bytes` of a file from `offset` on; without a number the whole file."""
        try:
            with (self._folder / name).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), n_bytes, offset) if n_bytes else file.readall()
        except OSError as error:
            raise QemuError(f"QEMU's {self._folder / name} cannot be read: {error}") from None
        if len(data) < n_bytes:
            raise QemuError(f"QEMU's {self._folder / name} ends early: its process is gone")
        return data

    def rss_bytes(self) -> int:
        """Return the process's resident memory; its own heap is trimmed now and then."""
        try:
            return int(psutil.Process(int(self._folder.name)).memory_info().rss)
        except psutil.Error as error:
            raise QemuError(f"QEMU's process is gone: {error}") from None

    def resident(self) -> npt.NDArray[np.bool_]:
        """Return which pages of RAM the host backs (``/proc/PID/pagemap``), in backend order."""
        data = self._read("pagemap", self.start // PAGE_BYTES * 8, 8 * self.memory_pages)
        return np.frombuffer(data, np.uint64) & _PRESENT != 0

    def mapped(self) -> Mapped:
        """Return the mappings of RAM, and what of them is huge (``/proc/PID/smaps``)."""
        end = self.start + self.memory_pages * PAGE_BYTES
        return mapped_within(self._read("smaps").decode().splitlines(), self.start, end)

    def huge_bytes(self) -> int:
        """Return how much of RAM stands on transparent huge pages."""
        return self.mapped().huge_bytes

    def held_bytes(self) -> int:
        """Return what the host holds of RAM: private pages, or what its file takes of memory."""
        if not self._shared:
            return self.mapped().anonymous_bytes
        try:
            for link in (self._folder / "fd").iterdir():
                if os.readlink(link).startswith(_FILE):
                    return link.stat().st_blocks * 512
        except OSError as error:
            raise QemuError(f"QEMU's process is gone: {error}") from None
        raise QemuError("QEMU has no file of guest RAM open")

    def count_other(self, pages: npt.NDArray[np.bool_], value: int) -> int:
        """Count those of `pages` (a flag for each) that hold any byte other than `value`.

        Read from ``/proc/PID/mem``: a page that is not backed becomes so, as the zero page.
        """
        other = 0
        for first in range(0, self.memory_pages, _STEP_PAGES):
            wanted = pages[first : first + _STEP_PAGES]
            if not wanted.any():
                continue
            offset = self.start + first * PAGE_BYTES
            data = np.frombuffer(self._read("mem", offset, wanted.size * PAGE_BYTES), np.uint8)
            differs = (data.reshape(-1, PAGE_BYTES) != value).any(axis=1)
            other += int(np.count_nonzero(differs & wanted))
        return other
