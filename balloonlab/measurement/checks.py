"""What guest RAM must look like around an operation, whoever its host is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from ..host import BACKINGS
from ..host.backing import Effect
from ..host.ram import GuestRam, Mapped
from ..host.shared import SharedRam
from ..qemu import HostView
from ..sizes import HUGE_BYTES, MIB, PAGE_BYTES
from .case import Case

Ram = GuestRam | SharedRam | HostView
Pages = npt.NDArray[np.bool_]
"""A flag for each page of RAM."""


def check_before(
    case: Case, ram: Ram, hidden: slice = slice(0), stray_pages: int = 0
) -> dict[str, Any]:
    """Refuse to time memory that is not in the state that the frame will claim.

    Nobody sees the `hidden` pages; `stray_pages` may be backed in a guest that is untouched.
    """
    resident, huge_bytes = ram.resident(), ram.huge_bytes()
    n_resident = int(resident.sum())
    resident[hidden] = True
    wrong = not resident.all() if case.touched else n_resident > stray_pages
    if wrong or (huge_bytes and not case.thp):
        raise RuntimeError(
            f"guest RAM of {case.source} is not as it should be for touched={case.touched}, "
            f"thp={case.thp}: {n_resident} of {case.memory_pages} pages are backed, {huge_bytes} "
            "bytes by huge pages; is its process being swapped or its memory merged?"
        )
    if case.touched and case.thp and not huge_bytes and case.memory_bytes >= 2 * HUGE_BYTES:
        raise RuntimeError(
            "thp=True must be measured on huge pages, but the kernel gave none: is its memory "
            "fragmented (echo 1 > /proc/sys/vm/compact_memory as root), or are they switched off "
            "for this process (PR_SET_THP_DISABLE)?"
        )
    return {"resident_pages_before": n_resident, "huge_bytes_before": huge_bytes}


def check_after(
    case: Case,
    ram: Ram,
    ballooned: Pages,
    count_lost: Callable[[Pages], int],
    hidden: slice = slice(0),
) -> dict[str, Any]:
    """Check that all pages were sent, and that exactly those are gone.

    `count_lost` counts the pages outside the balloon that lost their contents.
    """
    missing = case.balloon_pages - int(ballooned.sum())
    resident = ram.resident()  # before `count_lost`, which may read a page and so back it
    left = resident & discarded(case, ballooned)
    left[hidden] = False
    if not effect_of(case).frees:
        left[:] = False
    lost = count_lost(ballooned)
    if missing or left.any() or lost:
        raise RuntimeError(
            f"the operation went wrong ({case.source}): {missing} pages not sent, "
            f"{left.sum()} ballooned pages are still backed, {lost} pages outside the balloon lost "
            "their contents; nothing is reported"
        )
    return {
        "resident_pages_after": int(resident.sum()),
        "balloon_pages": int(ballooned.sum()),
        "lost_pages": lost,
    }


def effect_of(case: Case) -> Effect:
    """Return what the case's call does to the memory that it is made on."""
    return BACKINGS[case.backing].effect(case.verb)


def discarded(case: Case, ballooned: Pages) -> Pages:
    """Return the ballooned pages that the host can discard: those of whole pages behind RAM.

    QEMU gathers the pages of a huge one within a message alone, and 256 PFNs are half of it.
    """
    if case.host == "qemu" and case.backing == "hugetlb" and case.protocol == "pfn":
        return np.zeros_like(ballooned)
    n = BACKINGS[case.backing].page_bytes // PAGE_BYTES
    whole = ballooned[: ballooned.size // n * n].reshape(-1, n).all(axis=1)
    return np.pad(np.repeat(whole, n), (0, ballooned.size % n))


def check_freed(
    case: Case,
    ballooned: Pages,
    freed_bytes: int,
    held: tuple[int, int, int],
    mapped: Mapped,
    hidden_pages: int = 0,
) -> dict[str, int]:
    """Refuse a discard that did not do to the memory what its call is to do, or did more.

    `freed_bytes` is how much less the host holds, `held` how many pages of the balloon hold zero,
    what the guest wrote, and anything else. `hidden_pages` besides may be freed, too.
    """
    effect, n_pages = effect_of(case), int(ballooned.sum())
    n_done = int(discarded(case, ballooned).sum())
    freed = n_done * PAGE_BYTES if case.touched and case.operation == "inflate" else 0
    more = freed_bytes - (freed if effect.frees else 0)
    wrong = not 0 <= more <= hidden_pages * PAGE_BYTES
    if effect.reads == "either":  # the kernel takes them when it is short of memory
        wrong = not 0 <= freed_bytes <= freed
    kept = n_pages - n_done
    expected = {
        "zero": (n_done, kept, 0),
        "old": (0, n_pages, 0),
        "file": (0, kept, n_done),
        "either": (held[0], n_pages - held[0], 0),
    }
    if case.touched and held != expected[effect.reads]:
        wrong = True
    if wrong:
        raise RuntimeError(
            f"verb={case.verb!r} on backing={case.backing!r} must free {freed} bytes: "
            f"{effect.frees}, and leave pages that read {effect.reads}; it freed {freed_bytes} of "
            f"{n_pages} pages, of which {held} read zero, old, other; nothing is reported"
        )
    return {
        "freed_bytes": freed_bytes,
        "zero_pages": held[0],
        "old_pages": held[1],
        "mappings_after": mapped.n_mappings,
        "huge_bytes_after": mapped.huge_bytes,
    }


def none_lost(ballooned: Pages) -> int:
    """Return 0: nothing was written outside the balloon that could be lost."""
    return 0


def check_rss_fall(case: Case, fall_bytes: int) -> None:
    """Refuse an inflation of touched memory after which the host holds as much as before.

    A tenth and 64 MiB are let pass, and what the kernel's counters per processor can be off. Huge
    pages that the kernel keeps apart are in no process's account.
    """
    n_cpus = psutil.cpu_count() or 1
    counters = n_cpus * max(32, 2 * n_cpus) * PAGE_BYTES
    least = case.balloon_bytes * 0.9 - 64 * MIB - counters
    frees = effect_of(case).frees and BACKINGS[case.backing].page_bytes == PAGE_BYTES
    if case.operation == "inflate" and case.touched and frees and fall_bytes < least:
        raise RuntimeError(
            f"what the host holds must fall by the balloon's {case.balloon_bytes} bytes, it fell "
            f"by {fall_bytes}: does something else in this process take memory meanwhile? "
            "Nothing is reported"
        )
