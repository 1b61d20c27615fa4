"""How much memory a measurement may take, checked before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..sizes import MIB, PAGE_BYTES, format_size

OVERHEAD_BYTES = 512 * MIB
"""Left for Python, compiled kernels and everybody else."""

LAB_BYTES_PER_PAGE = 72
"""Allocator links, page lists, patterns and result checks, per page of the guest (41 measured
for an idle guest, 17 more while a random pattern is drawn, 8 where bitmaps are short)."""

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_OF_SELF = Path("/proc/self/cgroup")


def available_bytes() -> int:
    """Tell how much memory can be taken now: free memory or what cgroups leave of it."""
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
        fits = max(0, largest_guest(touched, available))
        raise MemoryError(
            f"memory={format_size(memory_bytes)} needs {format_size(needed)} "
            f"({'touched' if touched else 'untouched'}), but only {format_size(available)} are "
            f"available here (free memory and cgroup limits): memory={fits // MIB}MiB "
            "or less would fit"
        )


def largest_guest(touched: bool, available: int) -> int:
    """Size in bytes of the largest guest that fits, in whole 64 MiB."""
    per_page = LAB_BYTES_PER_PAGE + (PAGE_BYTES if touched else 0)
    pages = (available - OVERHEAD_BYTES) // per_page
    return pages * PAGE_BYTES // (64 * MIB) * (64 * MIB)
