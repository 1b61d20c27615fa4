"""The memory of a virtual machine: that of this process, at the same addresses.

Every readable mapping is a slot of guest physical memory, and page tables lead from each address
to its slot. A slot is a range of addresses, whatever is mapped there: it follows the process.
"""

from __future__ import annotations

import mmap
import re
import threading
from bisect import bisect, bisect_left, insort
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import kvm

MAPS = Path("/proc/self/maps")
PAGE, HUGE = 1 << 12, 1 << 21
TABLES_BYTES = 1 << 26
"""Room for page tables, of which what is not used takes no memory."""

ENTRIES = 512
FIRST_GPA = 1 << 32
PRESENT, WRITABLE, USER, HUGE_ENTRY = 1, 2, 4, 0x80
ADDRESS = 0x000F_FFFF_FFFF_F000

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r(.)..? \S+ \S+ \S+ *(.*)")
_C_LIBRARY = re.compile(r"/(libc[.-]|ld-musl)[^/]*$")
_NOT_MEMORY = ("[v", "anon_inode:")  # vdso, vvar, vsyscall: the kernel's; KVM's own


class Range(NamedTuple):
    """Addresses from `start` to `end` that are mapped alike."""

    start: int
    end: int
    writable: bool


class Slot(NamedTuple):
    """A range that the virtual machine has, under a number."""

    range: Range
    number: int


def mapped_ranges(maps: str) -> list[Range]:
    """Return what of ``/proc/self/maps`` can be memory of a virtual machine, neighbours joined."""
    found: list[Range] = []
    for line in maps.splitlines():
        match = _LINE.match(line)
        if match is None or match[4].startswith(_NOT_MEMORY):
            continue
        start, end, writable = int(match[1], 16), int(match[2], 16), match[3] == "w"
        if found and found[-1].end == start and found[-1].writable == writable:
            start = found.pop().start
        found.append(Range(start, end, writable))
    return found


def compiled_code(maps: str) -> list[tuple[int, int]]:
    """Return where compiled code and its constants stand, and the C library: start and end."""
    matches = filter(None, map(_LINE.match, maps.splitlines()))
    return [
        (int(match[1], 16), int(match[2], 16))
        for match in matches
        if match[3] != "w" and (not match[4] or _C_LIBRARY.search(match[4]))
    ]


class ProcessMemory:
    """The process's memory in the virtual machine `vm`; its page tables begin at `root`."""

    def __init__(self, vm: int) -> None:
        self._vm, self._maps = vm, ""
        self._refreshing = threading.Lock()  # processors of a machine share it
        self._slots: list[Slot] = []  # by address, none overlaps another
        self._next_gpa, self._next_number, self._n_tables = FIRST_GPA, 0, 1
        mapping = mmap.mmap(-1, TABLES_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(mapping, np.uint64)
        self._tables = whole.reshape(-1, ENTRIES)
        address = whole.ctypes.data
        self.root = self._gpa_for(address)
        self._add(Range(address, address + TABLES_BYTES, True))
        self.refresh()

    def refresh(self) -> None:
        """Add what was mapped, or became writable, since the last time."""
        with self._refreshing:
            self._refresh()

    def _refresh(self) -> None:
        maps = MAPS.read_text()
        if maps == self._maps:
            return
        self._maps = maps
        for wanted in mapped_ranges(maps):
            for slot in self._overlapping(wanted):
                if wanted.writable and not slot.range.writable:
                    self._remove(slot)
            start = wanted.start
            for slot in self._overlapping(wanted):
                if start < slot.range.start:
                    self._add(wanted._replace(start=start, end=slot.range.start))
                start = slot.range.end
            if start < wanted.end:
                self._add(wanted._replace(start=start))

    def _overlapping(self, wanted: Range) -> list[Slot]:
        first = bisect(self._slots, wanted.start, key=lambda slot: slot.range.end)
        last = bisect_left(self._slots, wanted.end, key=lambda slot: slot.range.start)
        return self._slots[first:last]

    def _gpa_for(self, address: int) -> int:
        """Return the next free guest physical address that suits huge pages at `address`."""
        return self._next_gpa + (address - self._next_gpa) % HUGE

    def _add(self, new: Range) -> None:
        slot, gpa = Slot(new, self._next_number), self._gpa_for(new.start)
        self._next_number += 1
        self._next_gpa = gpa + new.end - new.start
        self._set_region(slot, gpa, new.end - new.start)
        insort(self._slots, slot)
        self._map(new, gpa | PRESENT | USER | (WRITABLE if new.writable else 0))

    def _remove(self, slot: Slot) -> None:
        self._set_region(slot, 0, 0)  # KVM forgets all that it derived from the page tables, too
        self._slots.remove(slot)
        self._map(slot.range, 0)

    def _set_region(self, slot: Slot, gpa: int, n_bytes: int) -> None:
        flags = 0 if slot.range.writable else kvm.MEMORY_READONLY
        region = np.array((slot.number, flags, gpa, n_bytes, slot.range.start), kvm.REGION)
        try:
            kvm.request(self._vm, kvm.SET_USER_MEMORY_REGION, region)
        except OSError as error:
            where = f"{slot.range.start:#x}-{slot.range.end:#x}"
            raise kvm.KvmError(
                f"KVM refused memory at {where} as slot {slot.number}: {error.strerror}"
            ) from None

    def _map(self, addresses: Range, entry: int) -> None:
        """Write the entries of a range; `entry` is that of its first page, 0 to clear them."""
        address = addresses.start
        while address < addresses.end:
            n_bytes = addresses.end - address
            huge = address % HUGE == 0 and n_bytes >= HUGE and entry != 0
            page = HUGE if huge else PAGE
            table = self._table(address, page)
            first = address // page % ENTRIES
            n = min(n_bytes // page, ENTRIES - first)
            steps = np.arange(n, dtype=np.uint64) * np.uint64(page)
            bits = np.uint64(entry | (HUGE_ENTRY if huge else 0))
            table[first : first + n] = steps + bits if entry else 0
            address += n * page
            entry += n * page if entry else 0

    def _table(self, address: int, page: int) -> npt.NDArray[np.uint64]:
        """Return the table with the entries of pages of that size; made where there is none."""
        table, covered = self._tables[0], PAGE * ENTRIES**3
        while covered > page:
            at = address // covered % ENTRIES
            entry = int(table[at])
            if entry == 0 or entry & HUGE_ENTRY:
                table[at] = self._new_table(entry)
            table = self._tables[((int(table[at]) & ADDRESS) - self.root) // PAGE]
            covered //= ENTRIES
        return table

    def _new_table(self, split: int) -> int:
        """Return the entry of a new table, empty or with what the huge page `split` maps."""
        number = self._n_tables
        if number == len(self._tables):
            raise kvm.KvmError("the virtual machine has no room for more page tables")
        self._n_tables += 1
        if split:
            steps = np.arange(ENTRIES, dtype=np.uint64) * np.uint64(PAGE)
            self._tables[number] = steps + np.uint64(split & ~HUGE_ENTRY)
        return (self.root + number * PAGE) | PRESENT | WRITABLE | USER
