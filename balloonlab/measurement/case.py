"""One case: everything that is chosen before it is measured."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..address_map import check_sizes
from ..host import MOST_VECTORS, Policy
from ..kernels.buddy import N_ORDERS
from ..pages import Buddy, age, patterns
from ..qemu.protocols import REPORTING
from ..sizes import GIB, KIB, MIB, PAGE_BYTES
from .options import TABLE

MAX_MAP_COUNT, OWN_MAPPINGS = Path("/proc/sys/vm/max_map_count"), 2000
"""How many mappings a process may have, and what it has without a guest's RAM, roundly."""

LINUX = "linux"  # the guest whose pages are its own
CUSTOM = "custom"  # stands in the frame for page numbers, before a colon and their digest


def size_literal(n_bytes: int) -> str:
    """Write a size as users do, without rounding: the largest unit that divides it."""
    units = {"GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}
    unit = next(name for name, size in units.items() if n_bytes % size == 0)
    return f"{n_bytes // units[unit]}{unit}"


def digest(content: bytes) -> str:
    """Return 12 hex digits that name a content."""
    return blake2b(content, digest_size=6).hexdigest()


@dataclass(frozen=True)
class Case:
    """A case, its arguments checked one by one; `balloonlab.measurement.setups.make_case` makes it.

    `source` is what stands in the frame for `guest` and `host`, `given` the pages that the user
    gave as the pattern. `start` is the guest's allocator before the operation; None until
    `with_pages`: it takes 9 bytes per page of the guest, which a list of many cases should not.
    """

    memory_pages: int
    balloon_pages: int
    guest: str
    host: str
    backing: str
    verb: str
    protocol: str
    discard: str
    vectors: int  # of a vectored discard; 0 for all others
    threads: int
    collect: int
    pattern: str
    order: str
    operation: str
    touched: bool
    thp: bool
    wait: str
    allocation: str
    kick_pages: int
    in_flight: int
    steps: int
    bitmaps: int
    block_order: int  # of what free page reporting reports; 0 for all other protocols
    linux: str | None  # paths of the Linux that runs the driver, and of its modules
    modules: str | None
    repeats: int
    source: str
    given: npt.NDArray[np.uint64] | None = field(default=None, compare=False, repr=False)
    sized_by_pattern: bool = field(default=False, compare=False, repr=False)
    start: Buddy | None = field(default=None, compare=False, repr=False)

    def with_pages(self, start: Buddy | None = None) -> Case:
        """Return the case with the allocator's state; checks that the arguments go together.

        `start` is that of a case with the same `pages_key`, which is then not made again. A Linux
        has an allocator of its own.
        A ValueError says what pattern or sizes would fit.
        """
        self._check_sizes()
        if self.guest == LINUX:
            return self
        if self.verb == "map":
            self._check_mappings()
        start = self._make_start() if start is None else start
        n_pages = self._reported_pages(start) if self.protocol == REPORTING else self.balloon_pages
        return replace(self, start=start, balloon_pages=n_pages)

    def _check_sizes(self) -> None:
        memory, balloon = size_literal(self.memory_bytes), size_literal(self.balloon_bytes)
        if self.sized_by_pattern and self.balloon_pages >= self.memory_pages:
            raise ValueError(
                f"memory must be larger than the {balloon} ({self.balloon_pages} pages) of pattern "
                f"{self.pattern}, got {memory}: leave memory out, or give a smaller balloon"
            )
        check_sizes(memory, balloon)
        if self.balloon_pages == 0:
            raise ValueError("balloon must hold at least one page to be measured, got 0")
        if self.steps > self.balloon_pages:
            most = self.balloon_pages
            raise ValueError(f"steps must be at most {most}, one per page, got {self.steps}")

    def _check_mappings(self) -> None:
        """Refuse a balloon that would break RAM into more mappings than a process may have."""
        steps = np.diff(patterns.ordered(self.pages(), self.order).astype(np.int64))
        runs = 1 + int(np.count_nonzero(np.abs(steps) != 1))
        most = int(MAX_MAP_COUNT.read_text()) - OWN_MAPPINGS
        if 2 * runs > most:
            raise ValueError(
                f"verb='map' makes two mappings of each run of pages, and {MAX_MAP_COUNT} leaves "
                f"{most}: these {self.balloon_pages} pages have {runs} runs. Choose a smaller "
                "balloon or longer runs, or another verb="
            )

    def _reported_pages(self, start: Buddy) -> int:
        """Return the pages that the balloon gets: whole free blocks of `block_order`."""
        pages = 1 << self.block_order
        by_order = start.free_blocks()[self.block_order :]
        free_pages = int(by_order @ (pages << np.arange(by_order.size)))
        reported = min(free_pages, self.balloon_pages // pages * pages)
        if reported == 0:
            raise ValueError(
                f"pattern and balloon must hold a whole block of block_order={self.block_order} "
                f"({pages} pages, aligned) to be reported, these {self.balloon_pages} pages of "
                f"pattern {self.pattern} hold none"
            )
        return reported

    def _make_start(self) -> Buddy:
        if self.order == "as is" and self.pattern == "idle":
            return Buddy.idle(self.memory_pages)
        if self.order == "as is" and self.pattern == "aged":
            start = age(self.memory_bytes).buddy
            if self.balloon_pages > start.free_blocks() @ (1 << np.arange(N_ORDERS)):
                self.pages()  # raises, and says what would fit
            return start
        if self._merged:
            return Buddy.joining(self.memory_pages, self.pages(), "pattern")
        pages = patterns.ordered(self.pages(), self.order)
        return Buddy.holding(self.memory_pages, pages, "pattern")

    def pages(self) -> npt.NDArray[np.uint64]:
        """Return the pages of the balloon in the pattern's own order; drawn ones with ``rng=0``."""
        memory, balloon = size_literal(self.memory_bytes), size_literal(self.balloon_bytes)
        if self.given is None:
            return patterns.make(self.pattern, memory, balloon)
        if (n_pages := self.given.size) != self.balloon_pages:
            raise ValueError(
                f"balloon must be the size of the pages given as pattern= ({n_pages} pages, "
                f"{size_literal(n_pages * PAGE_BYTES)}) or left out, got {balloon}"
            )
        return self.given

    @property
    def policy(self) -> Policy:
        """How the host's device applies a message."""
        vectors = self.vectors or MOST_VECTORS
        return Policy(self.discard, vectors, self.threads, self.collect, self.verb)

    @property
    def _merged(self) -> bool:
        """Whether the pattern's pages are free as the largest blocks that they make."""
        chunks = self.allocation == "chunk" and self.order == "as is"
        return chunks or self.protocol == REPORTING

    @property
    def memory_key(self) -> tuple[str, str, str, int, bool, bool]:
        """What cases that can share a mapping agree in."""
        setup = self.guest, self.host, self.backing
        return *setup, self.memory_pages, self.thp, self.touched

    @property
    def pages_key(self) -> tuple[int, int, str, str, bool]:
        """What cases that start from the same allocator agree in."""
        pages = self.memory_pages, self.balloon_pages, self.pattern
        return *pages, self.order, self._merged

    @property
    def way(self) -> Case:
        """What is left of the case without its pages and its memory: the code that it runs."""
        pages: dict[str, Any] = {"memory_pages": 0, "balloon_pages": 0, "pattern": "", "order": ""}
        memory: dict[str, Any] = {"touched": False, "thp": False, "sized_by_pattern": False}
        return replace(self, **pages, **memory, given=None, start=None)

    @property
    def memory_bytes(self) -> int:
        """RAM of the guest."""
        return self.memory_pages * PAGE_BYTES

    @property
    def balloon_bytes(self) -> int:
        """Size of the balloon."""
        return self.balloon_pages * PAGE_BYTES

    def described(self, skipped: bool = False) -> dict[str, Any]:
        """Return the columns that say which case it is, those of a skipped one too if asked."""
        rows = [row for row in TABLE.values() if skipped or not row.skipped_only]
        names = ["source", *(row.column for row in rows if row.column)]
        return {name: getattr(self, name) for name in names}

    def targets(self) -> list[int]:
        """Return the sizes in pages that the balloon is set to, one after the other."""
        done = [self.balloon_pages * step // self.steps for step in range(1, self.steps + 1)]
        return done if self.operation == "inflate" else [self.balloon_pages - n for n in done]

    def allocator(self) -> Buddy:
        """Return a copy of the allocator that the case starts from, a fresh one for each repeat."""
        return self._make_start() if self.start is None else deepcopy(self.start)

    def label(self) -> str:
        """Return the case on one line, for progress bars."""
        state = "touched" if self.touched else "untouched"
        guest = f"{self.source}, {size_literal(self.memory_bytes)} {state}, {self.pattern}"
        return f"{guest}: {self.operation}, {self.protocol} by {self.discard}"
