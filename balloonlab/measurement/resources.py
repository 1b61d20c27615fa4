"""What a measurement needs of the machine, checked before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..host.ram import missing_facilities
from ..sizes import MIB, PAGE_BYTES, format_size

OVERHEAD_BYTES = 512 * MIB  # left for Python, compiled kernels and everybody else

LAB_BYTES_PER_PAGE = 72
"""Allocator links, page lists, patterns and result checks, per page of the guest (41 measured
for an idle guest, 17 more while a random pattern is drawn, 8 where bitmaps are short)."""

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_OF_SELF = Path("/proc/self/cgroup")
V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def check_facilities() -> None:
    """Refuse to measure where the platform cannot (NotImplementedError, naming what is missing)."""
    if missing := missing_facilities():
        raise NotImplementedError(
            f"measuring needs {', '.join(missing)}, missing here; everything except measuring works"
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
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "" or "memory" in controllers.split(","):
            base, files = (CGROUP_ROOT / "memory", V1) if controllers else (CGROUP_ROOT, V2)
            folder = base / path.lstrip("/")
            rooms += [_room(place, *files) for place in (folder, *folder.parents)]
    return [room for room in rooms if room is not None]


def _room(folder: Path, limit: str, usage: str) -> int | None:
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, usage))
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no memory cgroup, or its limit is "max"
        return None
    fields = dict(line.split() for line in lines)
    reclaimable = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return max(0, most - used + reclaimable)


def needed_bytes(memory_bytes: int, touched: bool) -> int:
    """Estimate what a measurement of that guest takes at its peak."""
    overhead = OVERHEAD_BYTES + memory_bytes // PAGE_BYTES * LAB_BYTES_PER_PAGE
    return overhead + (memory_bytes if touched else 0)


def check_available(memory_bytes: int, touched: bool) -> None:
    """Refuse a guest that does not fit (MemoryError, naming the largest one that does)."""
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
