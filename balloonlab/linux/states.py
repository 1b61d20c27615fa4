"""States that a guest is brought into before its balloon is inflated.

Each is a list of commands for the guest's init (`guest.c`), which are stored with the
trace as its workload. Sizes are shares of the guest's memory or of what it has available
(Linux's ``MemAvailable``) after boot, so that guests of all sizes are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..sizes import KIB, MIB, PAGE_BYTES

FILLED = 0.85
"""Share of the available memory that a state fills before it frees some of it."""


class State(NamedTuple):
    """A state of a guest."""

    text: str
    commands: Callable[[int, int], list[str]]
    """Takes the guest's memory and what is available of it, in bytes."""
    cycles: int = 1
    """How often the balloon is inflated and deflated, one right after the other."""
    disk: bool = False
    """Whether the guest has one, which page cache needs."""
    anonymous: bool = False
    """Whether it has much anonymous memory, each scattered page of which is a mapping of its own
    on the host of a User-Mode Linux, and takes it 0.2 ms; 65,530 are the limit of a process."""


def _page_cache(memory: int, available: int) -> list[str]:
    quarter = _pages(memory / 4)
    return [f"anon {quarter}", f"read {2 * quarter}", f"anon {quarter}", f"read {quarter}"]


def _tmpfs(percent: int) -> Callable[[int, int], list[str]]:
    def commands(memory: int, available: int) -> list[str]:
        return [f"files {_pages(FILLED * available)} {4 * KIB} {4 * MIB}", f"drop {percent}"]

    return commands


def _anonymous(memory: int, available: int) -> list[str]:
    never = "write /sys/kernel/mm/transparent_hugepage/enabled never"
    return [never, f"anon {_pages(FILLED * available)}", "free 50 64"]


STATES = {
    "idle": State("after boot, before any work", lambda memory, available: []),
    "pagecache": State(
        "half of memory anonymous, the rest page cache of a file on ext4 that was read in random "
        "pieces of 1 to 32 pages, more of it than fits",
        _page_cache,
        disk=True,
        anonymous=True,
    ),
    **{
        f"tmpfs{percent}": State(
            "85 % of the available memory filled with files of 4 KiB to 4 MiB on tmpfs, eight "
            f"growing at the same time; a random {percent} % of the files deleted",
            _tmpfs(percent),
        )
        for percent in (30, 50, 70)
    },
    "smallfiles": State(
        "a quarter of memory filled with files of 4 to 16 KiB on tmpfs, their inodes and dentries "
        "beside them; a random half of the files deleted",
        lambda memory, _: [f"files {_pages(memory / 4)} {4 * KIB} {16 * KIB}", "drop 50"],
    ),
    "anon": State(
        "no huge pages; 85 % of the available memory anonymous, its pages touched in random order; "
        "half of it freed in random pieces of 1 to 64 pages",
        _anonymous,
        anonymous=True,
    ),
    "slab": State(
        "a pipe with a byte in it and an empty file for every 24 KiB of memory; a random 75 % of "
        "pipes and files gone",
        lambda memory, _: [f"objects {memory // (24 * KIB)}", "drop 75"],
    ),
    "cycles": State(
        "as tmpfs50, but inflated and deflated three times in a row", _tmpfs(50), cycles=3
    ),
}
"""States by their spelling."""

NATIVE = tuple(name for name, state in STATES.items() if not state.anonymous)
"""Those that a User-Mode Linux can be brought into."""


def available_target(memory_pages: int, share: float, available: int) -> int:
    """Return the pages of the balloon: the share of memory, or what is available less a margin.

    A guest that uses half of its memory cannot give 85 % of it. The margin, 3 % of memory and at
    least 48 MiB, keeps the guest's kernel from having to kill its only process. `available` is
    the guest's ``MemAvailable`` in bytes.
    """
    margin = max(48 * MIB, int(0.03 * memory_pages * PAGE_BYTES))
    return max(0, min(int(memory_pages * share), (available - margin) // PAGE_BYTES))


def _pages(n_bytes: float) -> int:
    return int(n_bytes) // PAGE_BYTES * PAGE_BYTES
