"""Guest RAM: a mapping of its full size behind a memory map."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..address_map import DRIVER_GPA, ram_ranges
from ..kernels import contents
from ..kernels import translate as kernels
from ..kernels.discard import Verb
from ..kernels.syscalls import punch_hole
from ..sizes import GIB, HUGE_BYTES, MIB, PAGE_BYTES, format_size
from .backing import ANONYMOUS, BACKINGS, VERBS

DRIVER_BYTES = 9 * MIB
"""The guest kernel's own memory, a slot of its own: queues and message buffers, at most 32 of
65,536 page numbers."""

MADV_POPULATE_WRITE = 23  # Linux 5.14; Python does not name it

MAP_FIXED = 0x10
"""Linux's number on every architecture that numba compiles for; Python does not name it."""

_PRESENT, _OF_A_FILE = np.uint64(1 << 63), np.uint64(1 << 61)  # of /proc/PID/pagemap
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_FIELD = re.compile(r"(Anonymous|AnonHugePages|ShmemPmdMapped): +(\d+) kB")

TOUCH_STEP_PAGES = 64 * MIB // PAGE_BYTES
THP_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
THP_SIZE_SWITCH = THP_SWITCH.parent / "hugepages-2048kB" / "enabled"
SHMEM_SWITCH = THP_SWITCH.parent / "shmem_enabled"
_PR_GET_THP_DISABLE = 42  # of prctl(2); 1 is off for good, 3 (Linux 6.18) off but where advised


class Mapped(NamedTuple):
    """What the kernel says of a stretch of memory (``/proc/PID/smaps``)."""

    n_mappings: int
    anonymous_bytes: int  # private pages
    huge_bytes: int  # on transparent huge pages


class GuestRam:
    """The guest's memory as its host holds it; `memory` is what kernels take.

    A memory map of slots: RAM below 3 GiB, RAM from 4 GiB on, and 9 MiB for the guest kernel's own
    queue and buffers, which is never ballooned. In a real guest that memory is RAM like any other;
    apart, it leaves every page of RAM to the balloon and lets the device refuse to discard it.

    `thp`, whether the host may back RAM with transparent huge pages, is set for the mapping
    whatever the system's default; a ValueError where the kernel has none or has them switched off.
    What stands behind it is one of `balloonlab.host.backing.BACKINGS`. A MemoryError where the
    kernel refuses a mapping of that size, or has too few huge pages.
    """

    def __init__(self, memory_pages: int, thp: bool = False, backing: str = "anonymous") -> None:
        self.memory_pages, self.backing = memory_pages, BACKINGS[backing]
        size = memory_pages * PAGE_BYTES
        if thp:
            check_thp(shared=bool(self.backing.flags & mmap.MAP_SHARED))
        page_bytes = self.backing.page_bytes
        self._bytes = -(-(size + DRIVER_BYTES) // page_bytes) * page_bytes
        self._advice = mmap.MADV_HUGEPAGE if thp else mmap.MADV_NOHUGEPAGE
        try:
            self._file = self.backing.open(self._bytes)
            weakref.finalize(self, self.backing.close, self._file, self._bytes)
            room = mmap.mmap(-1, self._bytes + HUGE_BYTES, flags=ANONYMOUS)
            whole = np.frombuffer(room, np.uint8)
            start = -whole.ctypes.data % HUGE_BYTES
            self._map(whole.ctypes.data + start, self._bytes)
        except OSError as error:
            raise MemoryError(
                f"the kernel refused to map {format_size(size)} of guest RAM ({error}): "
                "choose a smaller memory="
            ) from error
        ram = whole[start:][: size + DRIVER_BYTES]
        slots = [(DRIVER_GPA // PAGE_BYTES, DRIVER_BYTES // PAGE_BYTES, memory_pages, 0)]
        first_page = 0
        for low, high in ram_ranges(memory_pages):
            slots.append((low, high - low, first_page, 1))
            first_page += high - low
        slots.sort()
        self.memory = kernels.Memory(ram, ram.ctypes.data, np.array(slots, np.int64))

    def _map(self, address: int, n_bytes: int) -> None:
        """Map RAM from its first byte on."""
        map_at(address, n_bytes, self.backing.flags, self._file)
        if THP_SWITCH.exists() and self.backing.page_bytes == PAGE_BYTES:
            advise(address, n_bytes, self._advice, "huge pages of guest RAM")

    def verb(self, name: str | None = None) -> Verb:
        """Return what frees memory, one of the backing's calls, by default its first.

        A ValueError where it is not made on such memory.
        """
        name = name or self.backing.usable[0]
        self.backing.effect(name)
        call = VERBS[name]
        flags = ANONYMOUS | MAP_FIXED
        return Verb(int(call.act), call.advice, self._file, flags, self.backing.page_bytes)

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
        """Map RAM anew in its place, empty and without page tables; the driver's memory stays.

        A discard per page leaves the page tables of the small pages, and where there is
        one the kernel puts no huge page at the next touch: guests of ``thp=True`` were huge
        for an eighth after it, what had not been ballooned, and a discard by range of 3.5 GiB
        then took 280 ms instead of 13.
        """
        size = self.memory_pages * PAGE_BYTES
        size -= size % self.backing.page_bytes
        if self.backing.flags & mmap.MAP_SHARED and punch_hole(self._file, 0, size) != 0:
            raise OSError("a hole in the file of guest RAM failed")
        self._map(self.memory.base_address, size)

    def touch(
        self,
        advance: Callable[[int], object] = lambda n_bytes: None,
        call: Callable[..., Any] = lambda function, *arguments: function(*arguments),
    ) -> None:
        """Write a signature into every page of RAM, so that the host backs it.

        `advance` is called with the bytes touched since its last call; `call` calls the kernel,
        perhaps inside a virtual machine. A MemoryError where huge pages are no longer to be had.
        """
        self._secure()
        for first in range(0, self.memory_pages, TOUCH_STEP_PAGES):
            n_pages = min(TOUCH_STEP_PAGES, self.memory_pages - first)
            call(contents.touch, self.memory.ram, first, n_pages)
            advance(n_pages * PAGE_BYTES)

    def _secure(self) -> None:
        """Back all of RAM that is of huge pages of the pool, where others may take what is free.

        A touch that finds none ends the process by SIGBUS; this is an error instead.
        """
        if self.backing.page_bytes > PAGE_BYTES:
            size = self.memory_pages * PAGE_BYTES
            try:
                advise(self.memory.base_address, size, MADV_POPULATE_WRITE, "huge pages of RAM")
            except OSError as error:
                raise MemoryError(
                    f"the pool of huge pages has none left for guest RAM ({error}): does another "
                    "process take them, or make the pool smaller?"
                ) from None

    def count_lost(self, ballooned: npt.NDArray[np.bool_]) -> int:
        """Count the pages outside the balloon that no longer hold what `touch` wrote."""
        words = bits_of(ballooned)
        return int(contents.count_lost(self.memory.ram, self.memory_pages, words))

    def read_back(self, ballooned: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
        """Count the pages of the balloon that hold zero, what `touch` wrote, and anything else.

        Reading a page that is not backed backs it; errors as of `touch`.
        """
        self._secure()
        found = np.zeros(3, np.int64)
        contents.read_back(self.memory.ram, self.memory_pages, bits_of(ballooned), found)
        zero, old, other = found.tolist()
        return zero, old, other

    def resident(self) -> npt.NDArray[np.bool_]:
        """Ask the kernel which pages of RAM it backs, shape (memory_pages,).

        Of a private file those that the guest has written; elsewhere what ``mincore(2)`` says.
        """
        first, n_pages = self.memory.base_address, self.memory_pages
        if self._file < 0 or self.backing.flags & mmap.MAP_SHARED:
            return resident_pages(first, n_pages)
        with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
            entries = np.frombuffer(os.pread(file.fileno(), 8 * n_pages, first // PAGE_BYTES * 8))
        return (entries.view(np.uint64) & (_PRESENT | _OF_A_FILE)) == _PRESENT

    def mapped(self) -> Mapped:
        """Ask the kernel for the mappings of RAM, the driver's memory and all."""
        return mapped_here(self.memory.base_address, self.memory.ram.size)

    def huge_bytes(self) -> int:
        """Ask the kernel how much of the mapping stands on transparent huge pages."""
        return self.mapped().huge_bytes

    def held_bytes(self, mapped: Mapped | None = None) -> int:
        """Return what the host holds of RAM: private pages, or what its file takes of memory.

        `mapped` is what the kernel said right now, where it was asked.
        """
        if self.backing.flags & mmap.MAP_SHARED:
            return os.fstat(self._file).st_blocks * 512
        return (mapped or self.mapped()).anonymous_bytes


def advise(address: int, n_bytes: int, advice: int, what: str) -> None:
    """Call ``madvise(2)``; an OSError says `what` it was about."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if madvise(address, n_bytes, advice) != 0:
        raise OSError(ctypes.get_errno(), f"madvise failed: {what}")


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


def mapped_within(smaps: Iterable[str], first: int, last: int) -> Mapped:
    """Sum up the mappings that overlap an address range, in lines of ``/proc/PID/smaps``.

    No line behind the range is read: the kernel looks at pages of what is read alone, and RAM lies
    below all libraries.
    """
    n, within, sums = 0, False, {"Anonymous": 0, "AnonHugePages": 0, "ShmemPmdMapped": 0}
    for line in smaps:
        if head := _MAPPING.match(line):
            if int(head[1], 16) >= last:
                break
            within = int(head[2], 16) > first
            n += within
        elif within and (field := _FIELD.match(line)):
            sums[field[1]] += int(field[2]) * 1024
    return Mapped(n, sums["Anonymous"], sums["AnonHugePages"] + sums["ShmemPmdMapped"])


def mapped_here(first: int, n_bytes: int) -> Mapped:
    """Sum up this process's mappings that overlap an address range."""
    with Path("/proc/self/smaps").open() as smaps:
        return mapped_within(smaps, first, first + n_bytes)


def deferred_huge_pages() -> int:
    """Return how often the kernel has put off to split a huge page, all processes together.

    A transparent huge page of which some 4 KiB were discarded stays whole, until the kernel is
    short of memory: nothing of it is back before (``thp_deferred_split_page`` in ``/proc/vmstat``).
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("thp_deferred_split_page"))


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


def check_thp(own_process: bool = True, shared: bool = False) -> None:
    """Refuse ``thp=True`` where the kernel has no huge pages to give (ValueError).

    `own_process`: they are for this process, in which PR_SET_THP_DISABLE may be set. `shared`: they
    are for a file in memory.
    """
    if shared:
        setting = SHMEM_SWITCH.read_text() if SHMEM_SWITCH.exists() else "[absent]"
        if setting.split("[")[1].split("]")[0] not in ("advise", "always", "within_size", "force"):
            raise ValueError(
                f"thp=True needs transparent huge pages for files in memory, but {SHMEM_SWITCH} "
                f"says {setting.strip()!r}: write 'advise' there, or measure with thp=False"
            )
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
