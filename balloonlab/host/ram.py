"""Guest RAM: a private anonymous mapping of its full size behind a memory map."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..address_map import DRIVER_GPA, ram_ranges
from ..kernels import contents
from ..kernels import translate as kernels
from ..sizes import GIB, MIB, PAGE_BYTES, format_size

HUGE_BYTES = 2 * MIB
DRIVER_BYTES = 9 * MIB
"""The guest kernel's own memory, a slot of its own: queues and message buffers, at most 32 of
65,536 page numbers."""

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Lets an untouched guest be larger than the host's memory (Python names it from 3.13 on)."""

MAP_FIXED = 0x10
"""Linux's number on every architecture that numba compiles for; Python does not name it."""

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")

TOUCH_STEP_PAGES = 64 * MIB // PAGE_BYTES
THP_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
THP_SIZE_SWITCH = THP_SWITCH.parent / "hugepages-2048kB" / "enabled"
_PR_GET_THP_DISABLE = 42  # of prctl(2); 1 is off for good, 3 (Linux 6.18) off but where advised


class Backing(NamedTuple):
    """What stands behind guest RAM: what ``mmap(2)`` is given."""

    open: Callable[[int], int]  # a file of so many bytes; -1 for none
    flags: int


BACKINGS = {
    "anonymous": Backing(lambda n_bytes: -1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
}
"""Backings by the name that users write."""


class GuestRam:
    """The guest's memory as its host holds it; `memory` is what kernels take.

    A memory map of slots: RAM below 3 GiB, RAM from 4 GiB on, and 9 MiB for the guest kernel's own
    queue and buffers, which is never ballooned. In a real guest that memory is RAM like any other;
    apart, it leaves every page of RAM to the balloon and lets the device refuse to discard it.

    `thp`, whether the host may back RAM with transparent huge pages, is set for the mapping
    whatever the system's default; a ValueError where the kernel has none or has them switched off.
    A MemoryError where it refuses a mapping of that size. `advice` is what frees a page of it.
    """

    advice = mmap.MADV_DONTNEED

    def __init__(self, memory_pages: int, thp: bool = False, backing: str = "anonymous") -> None:
        self.memory_pages = memory_pages
        size = memory_pages * PAGE_BYTES
        if thp:
            check_thp()
        mapped_bytes, self._backing = size + DRIVER_BYTES + HUGE_BYTES, BACKINGS[backing]
        try:
            self._file = self._backing.open(mapped_bytes)
            self._mapping = mmap.mmap(self._file, mapped_bytes, flags=self._backing.flags)
        except OSError as error:
            raise MemoryError(
                f"the kernel refused to map {format_size(size)} of guest RAM ({error}): "
                "choose a smaller memory="
            ) from error
        whole = np.frombuffer(self._mapping, np.uint8)
        self._start = -whole.ctypes.data % HUGE_BYTES
        self._advice = mmap.MADV_HUGEPAGE if thp else mmap.MADV_NOHUGEPAGE
        self._advise(size + DRIVER_BYTES)
        ram = whole[self._start :][: size + DRIVER_BYTES]
        slots = [(DRIVER_GPA // PAGE_BYTES, DRIVER_BYTES // PAGE_BYTES, memory_pages, 0)]
        first_page = 0
        for low, high in ram_ranges(memory_pages):
            slots.append((low, high - low, first_page, 1))
            first_page += high - low
        slots.sort()
        self.memory = kernels.Memory(ram, ram.ctypes.data, np.array(slots, np.int64))

    def _advise(self, n_bytes: int) -> None:
        if THP_SWITCH.exists():
            self._mapping.madvise(self._advice, self._start, n_bytes)

    def driver_memory(self) -> npt.NDArray[np.uint8]:
        """View the guest kernel's own memory, which stands at ``DRIVER_GPA``."""
        return self.memory.ram[self.memory_pages * PAGE_BYTES :]

    def page_index(self, pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Turn page numbers of RAM into positions in the mapping, in pages."""
        pages = pfns.astype(np.int64)
        result = np.full(pages.shape, -1, np.int64)
        for start, n_pages, first_page, balloonable in self.memory.slots:
            inside = (pages >= start) & (pages < start + n_pages) & bool(balloonable)
            result[inside] = pages[inside] - start + first_page
        return result

    def renew(self) -> None:
        """Map RAM anew in its place, empty and without page tables.

        A discard per page leaves the page tables of the small pages, and where there is
        one the kernel puts no huge page at the next touch: guests of ``thp=True`` were huge
        for an eighth after it, what had not been ballooned, and a discard by range of 3.5 GiB
        then took 280 ms instead of 13.
        """
        size = self.memory_pages * PAGE_BYTES
        map_at(self.memory.base_address, size, self._backing.flags, self._file)
        self._advise(size)

    def touch(
        self,
        advance: Callable[[int], object] = lambda n_bytes: None,
        call: Callable[..., Any] = lambda function, *arguments: function(*arguments),
    ) -> None:
        """Write a signature into every page of RAM, so that the host backs it.

        `advance` is called with the bytes touched since its last call; `call` calls the kernel,
        perhaps inside a virtual machine.
        """
        for first in range(0, self.memory_pages, TOUCH_STEP_PAGES):
            n_pages = min(TOUCH_STEP_PAGES, self.memory_pages - first)
            call(contents.touch, self.memory.ram, first, n_pages)
            advance(n_pages * PAGE_BYTES)

    def count_lost(self, ballooned: npt.NDArray[np.bool_]) -> int:
        """Count the pages outside the balloon that no longer hold what `touch` wrote."""
        words = bits_of(ballooned)
        return int(contents.count_lost(self.memory.ram, self.memory_pages, words))

    def resident(self) -> npt.NDArray[np.bool_]:
        """Ask the kernel which pages of RAM it backs (``mincore(2)``), shape (memory_pages,)."""
        return resident_pages(self.memory.base_address, self.memory_pages)

    def huge_bytes(self) -> int:
        """Ask the kernel how much of the mapping stands on transparent huge pages."""
        first = self.memory.base_address
        smaps = Path("/proc/self/smaps").read_text()
        return huge_bytes_within(smaps, first, first + self.memory.ram.size)


def map_at(address: int, n_bytes: int, flags: int, file: int, offset: int = 0) -> None:
    """Map a file, or anonymous memory, in the place of what is mapped there (MemoryError)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if libc.mmap(address, n_bytes, protection, flags | MAP_FIXED, file, offset) != address:
        raise MemoryError(f"mapping guest RAM in place failed: {os.strerror(ctypes.get_errno())}")


def resident_pages(address: int, n_pages: int) -> npt.NDArray[np.bool_]:
    """Ask the kernel which pages of a mapping it backs (``mincore(2)``), shape (n_pages,)."""
    result = np.zeros(n_pages, np.uint8)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    step = GIB // PAGE_BYTES
    for first in range(0, n_pages, step):
        n = min(step, n_pages - first)
        if mincore(address + first * PAGE_BYTES, n * PAGE_BYTES, result[first:].ctypes.data) != 0:
            raise OSError(ctypes.get_errno(), "mincore of guest RAM failed")
    return result.astype(bool)


def bits_of(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Pack flags into words, the first into the lowest bit."""
    bits = np.packbits(flags, bitorder="little")
    words = np.zeros(-(-bits.size // 8), np.uint64)
    words.view(np.uint8)[: bits.size] = bits
    return words


def huge_bytes_within(smaps: str, first: int, last: int) -> int:
    """Sum the huge pages of the mappings in ``/proc/PID/smaps`` that overlap an address range."""
    inside, total = False, 0
    for line in smaps.splitlines():
        if match := _MAPPING.match(line):
            inside = int(match[1], 16) < last and int(match[2], 16) > first
        elif inside and line.startswith(("AnonHugePages:", "ShmemPmdMapped:")):
            total += int(line.split()[1]) * 1024
    return total


def missing_facilities() -> list[str]:
    """List what a measurement needs and this platform lacks; empty on Linux."""
    madvise = hasattr(mmap.mmap, "madvise") and hasattr(mmap, "MADV_DONTNEED")
    facilities = {
        "eventfd (os.eventfd)": hasattr(os, "eventfd"),
        "madvise with MADV_DONTNEED (mmap.mmap.madvise)": madvise,
        f"Linux (this is {sys.platform})": sys.platform.startswith("linux"),
    }
    return [name for name, there in facilities.items() if not there]


def thp_state() -> str:
    """Return the setting for 2 MiB pages: always, madvise, never or absent.

    That of their own size where it is not ``inherit`` (Linux 6.8 and later), else the global one.
    """
    for switch in (THP_SIZE_SWITCH, THP_SWITCH):
        try:
            state = switch.read_text().split("[")[1].split("]")[0]
        except (OSError, IndexError):
            continue
        if state != "inherit":
            return state
    return "absent"


def check_thp(own_process: bool = True) -> None:
    """Refuse ``thp=True`` where the kernel has no huge pages to give (ValueError).

    `own_process`: they are for this process, in which PR_SET_THP_DISABLE may be set.
    """
    state = thp_state()
    if state in ("absent", "never"):
        raise ValueError(
            f"thp=True needs transparent huge pages, but {THP_SWITCH} and {THP_SIZE_SWITCH} make "
            f"{state!r} of 2 MiB pages: write 'madvise' there, or measure with thp=False"
        )
    if own_process and ctypes.CDLL(None).prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1:
        raise ValueError(
            "thp=True needs transparent huge pages, but they are switched off for this process "
            "(PR_SET_THP_DISABLE, which children inherit): start it without, or measure with "
            "thp=False"
        )
