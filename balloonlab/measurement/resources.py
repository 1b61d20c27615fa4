"""What a measurement needs of the machine, checked before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..host.ram import HUGE_BYTES, missing_facilities
from ..sizes import MIB, PAGE_BYTES, format_size

OVERHEAD_BYTES = 512 * MIB
"""Left for Python, compiled kernels and everybody else."""

LAB_BYTES_PER_PAGE = 72
"""Allocator links, page lists, patterns and result checks, per page of the guest (41 measured
for an idle guest, 17 more while a random pattern is drawn, 8 where bitmaps are short)."""

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_OF_SELF = Path("/proc/self/cgroup")


def check_facilities() -> None:
    """Refuse to measure where the platform cannot (NotImplementedError, naming what is missing)."""
    missing = missing_facilities()
    if missing:
        raise NotImplementedError(
            f"measuring needs {', '.join(missing)}, missing here; everything except measuring works"
        )


def check_huge(memory_bytes: int, expected: bool, huge_bytes: int) -> None:
    """Refuse memory that should be on huge pages where the kernel gave none (RuntimeError)."""
    if expected and not huge_bytes and memory_bytes >= 2 * HUGE_BYTES:
        raise RuntimeError(
            "thp=True must be measured on huge pages, but the kernel gave none: is its memory "
            "fragmented (echo 1 > /proc/sys/vm/compact_memory as root), or are they switched off "
            "for this process (PR_SET_THP_DISABLE)?"
        )


def available_bytes() -> int:
    """Return how much memory can be taken now: free memory or what cgroups leave of it."""
    return min([psutil.virtual_memory().available, *_cgroup_rooms()])


def _cgroup_rooms() -> list[int]:
    """Room under every memory limit of this process's cgroups (v2 and v1) and their parents."""
    try:
        lines = CGROUP_OF_SELF.read_text().splitlines()
    except OSError:
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = CGROUP_ROOT, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = (
                CGROUP_ROOT / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        relative = Path(path.lstrip("/"))
        for folder in (base / relative, *(base / parent for parent in relative.parents)):
            room = _room(folder, limit, usage)
            if room is not None:
                rooms.append(room)
    return rooms


def _room(folder: Path, limit: str, usage: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        stat = (folder / "memory.stat").read_text()
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    fields = dict(line.split() for line in stat.splitlines())
    reclaimable = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return max(0, int(most) - used + reclaimable)


def needed_bytes(memory_bytes: int, touched: bool) -> int:
    """Estimate what a measurement of that guest takes at its peak."""
    overhead = OVERHEAD_BYTES + memory_bytes // PAGE_BYTES * LAB_BYTES_PER_PAGE
    return overhead + (memory_bytes if touched else 0)


def check_available(memory_bytes: int, touched: bool) -> None:
    """Refuse a guest that does not fit.

    Raises
    ------
    MemoryError
        Naming what is needed, what there is, and the largest guest that fits.
    """
    needed, available = needed_bytes(memory_bytes, touched), available_bytes()
    if needed > available:
        fits = largest_guest(touched, available)
        advice = f"memory={fits // MIB}MiB or less would fit" if fits > 0 else "none would fit"
        state = "touched" if touched else "untouched"
        raise MemoryError(
            f"memory={format_size(memory_bytes)} needs {format_size(needed)} ({state}), but only "
            f"{format_size(available)} are available here (free memory and cgroup limits): {advice}"
        )


def largest_guest(touched: bool, available: int) -> int:
    """Return the size in bytes of the largest guest that fits, in whole 64 MiB."""
    per_page = LAB_BYTES_PER_PAGE + (PAGE_BYTES if touched else 0)
    pages = (available - OVERHEAD_BYTES) // per_page
    return pages * PAGE_BYTES // (64 * MIB) * (64 * MIB)
