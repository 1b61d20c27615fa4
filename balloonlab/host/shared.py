"""Guest RAM that another process has: files of its, mapped as its memory table says."""

from __future__ import annotations

import mmap
import os
import stat

import numpy as np
import numpy.typing as npt

from ..kernels import translate as kernels
from ..kernels.discard import Act, Verb
from ..queue.vhost_user import Region, VhostUserError
from ..sizes import PAGE_BYTES
from .backing import ANONYMOUS, MADV_REMOVE
from .ram import MADV_POPULATE_WRITE, advise, map_at, mapped_here, resident_pages

MOST_BYTES = 1 << 44
"""Of all regions; beyond, page numbers of a mapping and their bitmap make no sense here."""


class SharedRam:
    """A guest's memory table, mapped piece by piece side by side; `memory` is what kernels take.

    `regions` are as the front-end says, `fds` their files, which stay the caller's. All of it is
    RAM of the guest.

    A `VhostUserError` for a table that lies: a region that is empty, no whole pages, beyond its
    file, or laid over another one; a descriptor that is no regular file. What a front-end does to
    its file afterwards nobody can prevent: one that makes it shorter ends this process by SIGBUS,
    as it does any vhost-user back-end.
    """

    def __init__(self, regions: list[Region], fds: list[int]) -> None:
        for region, fd in zip(regions, fds, strict=True):
            _check(region, fd)
        _check_apart("gpa", [(region.gpa, region.n_bytes) for region in regions])
        _check_apart("user address", [(region.user_address, region.n_bytes) for region in regions])
        n_bytes = sum(region.n_bytes for region in regions)
        if n_bytes > MOST_BYTES:
            raise VhostUserError(f"guest memory must be at most {MOST_BYTES} bytes, got {n_bytes}")
        self.memory_pages, self.regions = n_bytes // PAGE_BYTES, regions
        ram = np.frombuffer(mmap.mmap(-1, n_bytes, flags=ANONYMOUS), np.uint8)
        slots, self._places, first = [], list[tuple[Region, int]](), 0
        for region, fd in zip(regions, fds, strict=True):
            address = ram.ctypes.data + first * PAGE_BYTES
            map_at(address, region.n_bytes, mmap.MAP_SHARED, fd, region.offset)
            n_pages = region.n_bytes // PAGE_BYTES
            slots.append((region.gpa // PAGE_BYTES, n_pages, first, 1))
            self._places.append((region, first * PAGE_BYTES))
            first += n_pages
        self._fds = list(map(os.dup, fds))
        self.memory = kernels.Memory(ram, ram.ctypes.data, np.array(sorted(slots), np.int64))

    def at(self, user_address: int, n_bytes: int) -> npt.NDArray[np.uint8]:
        """View memory at an address of the front-end's; a `VhostUserError` outside its regions."""
        for region, start in self._places:
            into = user_address - region.user_address
            if 0 <= into <= region.n_bytes - n_bytes:
                return self.memory.ram[start + into : start + into + n_bytes]
        raise VhostUserError(
            f"a vring must lie in one region of guest memory, got {n_bytes} bytes at "
            f"{user_address:#x}"
        )

    def page_index(self, pfns: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Turn page numbers of RAM into positions in the mapping, in pages; -1 outside."""
        pages = pfns.astype(np.int64)
        result = np.full(pages.shape, -1, np.int64)
        for start, n_pages, first, _ in self.memory.slots:
            inside = (pages >= start) & (pages < start + n_pages)
            result[inside] = pages[inside] - start + first
        return result

    def back_all(self) -> None:
        """Have the kernel back all of RAM; no contents change."""
        what = "guest RAM cannot be backed (MADV_POPULATE_WRITE, Linux 5.14)"
        advise(self.memory.base_address, self.memory.ram.size, MADV_POPULATE_WRITE, what)

    def verb(self, name: str | None = None) -> Verb:
        """Return what frees memory: of shared files ``MADV_REMOVE``, and nothing else is done."""
        if name not in (None, "remove"):
            raise ValueError(f"verb must be 'remove' for a front-end's memory, got {name!r}")
        return Verb(int(Act.ADVISE), MADV_REMOVE, -1, 0, PAGE_BYTES)

    def held_bytes(self) -> int:
        """Return what the files hold, in bytes of the host's memory."""
        found = [os.fstat(fd) for fd in self._fds]
        return sum({(one.st_dev, one.st_ino): one.st_blocks * 512 for one in found}.values())

    def resident(self) -> npt.NDArray[np.bool_]:
        """Ask the kernel which pages of RAM the files hold, shape (memory_pages,)."""
        return resident_pages(self.memory.base_address, self.memory_pages)

    def huge_bytes(self) -> int:
        """Ask the kernel how much of the mapping stands on huge pages."""
        return mapped_here(self.memory.base_address, self.memory.ram.size).huge_bytes

    def close(self) -> None:
        """Let go of the files; what is mapped goes with the last array over it."""
        while self._fds:
            os.close(self._fds.pop())


def _check(region: Region, fd: int) -> None:
    """Refuse a region that cannot be mapped as it says."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise VhostUserError("the descriptor of a memory region must be a regular file")
    if region.n_bytes == 0 or (region.gpa | region.n_bytes | region.offset) % PAGE_BYTES:
        raise VhostUserError(
            f"a memory region must be whole pages, got {region.n_bytes} bytes at gpa "
            f"{region.gpa:#x}, offset {region.offset:#x}"
        )
    if region.offset + region.n_bytes > found.st_size:
        raise VhostUserError(
            f"a memory region must lie in its file, got {region.n_bytes} bytes at offset "
            f"{region.offset:#x} of {found.st_size}"
        )
    if max(region.gpa, region.user_address) + region.n_bytes > 1 << 63:
        raise VhostUserError(f"a memory region must end below 2**63, got gpa {region.gpa:#x}")


def _check_apart(what: str, pieces: list[tuple[int, int]]) -> None:
    """Refuse pieces (start, bytes) that overlap."""
    end = 0
    for start, n_bytes in sorted(pieces):
        if start < end:
            raise VhostUserError(f"memory regions must not overlap, got {what} {start:#x} twice")
        end = start + n_bytes
