"""Where a PC guest's RAM is in its physical addresses.

As QEMU's ``pc`` and ``q35`` machines lay it out: RAM below 3 GiB, a hole for
devices, the rest of RAM from 4 GiB on. Linux cuts it into zones and takes pages
for a balloon from the highest zone first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .sizes import GIB, MIB, PAGE_BYTES, Size, parse_pages

LOW_RAM_END = 3 * GIB // PAGE_BYTES
HIGH_RAM_START = 4 * GIB // PAGE_BYTES
ZONE_DMA_END = 16 * MIB // PAGE_BYTES
DRIVER_GPA = 0xFE000000
"""The guest kernel's own memory: a slot in the hole, so that every page of RAM can be ballooned."""


class PageRange(NamedTuple):
    """Pages from `start` up to, not including, `end`."""

    start: int
    end: int


def ram_ranges(n_pages: int) -> list[PageRange]:
    """Return the page numbers of a guest's RAM of `n_pages` as ranges, ascending."""
    if n_pages <= LOW_RAM_END:
        return [PageRange(0, n_pages)]
    high = PageRange(HIGH_RAM_START, HIGH_RAM_START + n_pages - LOW_RAM_END)
    return [PageRange(0, LOW_RAM_END), high]


def pfns_at(positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the page numbers of RAM's pages, counted from 0 without the hole."""
    hole = np.uint64(HIGH_RAM_START - LOW_RAM_END)
    return positions + hole * (positions >= np.uint64(LOW_RAM_END))


def zones(n_pages: int) -> list[PageRange]:
    """Return the page numbers of a guest's zones as ranges, ascending: DMA, DMA32, Normal.

    A balloon is filled from the last to the first, as Linux falls back
    (``gfp_zone`` and the zonelists of x86-64).
    """
    low, *high = ram_ranges(n_pages)
    cut = min(ZONE_DMA_END, low.end)
    parts = [PageRange(0, cut), PageRange(cut, low.end), *high]
    return [part for part in parts if part.end > part.start]


def check_sizes(memory: Size, balloon: Size) -> tuple[int, int]:
    """Return both sizes in pages, after a check that the balloon fits the guest.

    ``ValueError`` where a size is no multiple of 4 KiB, `memory` is zero, or the balloon is not
    smaller than the memory.
    """
    memory_pages = parse_pages(memory, "memory")
    balloon_pages = parse_pages(balloon, "balloon")
    if memory_pages == 0:
        raise ValueError(f"memory must be at least one 4 KiB page, got {memory!r}")
    if balloon_pages >= memory_pages:
        raise ValueError(
            f"balloon must be smaller than memory, got balloon={balloon!r} for "
            f"memory={memory!r}: a guest keeps at least one page"
        )
    return memory_pages, balloon_pages
