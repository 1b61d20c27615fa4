"""One case of the laboratory: everything that is chosen before it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import wire
from ..address_map import check_sizes
from ..host import DISCARDS
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..pages import Buddy, age, as_pfns, patterns
from ..qemu import protocols as qemu
from ..qemu.process import check_memory
from ..sizes import GIB, KIB, MIB, PAGE_BYTES, Size, parse_pages
from .resources import check_available

OPERATIONS = ("inflate", "deflate")
DEFAULT_PROTOCOLS = {"lab": "bitmap-v4", "qemu": "pfn"}
"""The hosts, and what is measured on each when nothing is said."""
WAITS = ("block", "busy")

CUSTOM = "custom"
"""What stands in the frame for a pattern that is given as page numbers."""

Pattern = str | npt.ArrayLike


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check an argument that is one of several words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Check an argument that counts something."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}")


def _usual_discard(host: str, protocol: str) -> str:
    """Tell how a host applies a protocol; refuses those that it does not take."""
    if host == "qemu":
        return qemu.DISCARDS[protocol]
    if protocol == qemu.REPORTING:
        raise ValueError(
            f"protocol={protocol!r} is a queue of QEMU's, to be measured with host='qemu': with "
            f"host='lab' it must be one of {', '.join(wire.formats())}"
        )
    return wire.get(protocol).discard


def size_literal(n_bytes: int) -> str:
    """Write a size as users do, without rounding: the largest unit that divides it."""
    units = {"GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}
    unit = next(name for name, size in units.items() if n_bytes % size == 0)
    return f"{n_bytes // units[unit]}{unit}"


def default_memory(pattern: Pattern) -> int:
    """Tell the guest's memory in bytes where none is given; checks a pattern's spelling."""
    return patterns.default_memory(pattern) if isinstance(pattern, str) else 8 * GIB


@dataclass(frozen=True)
class Case:
    """A measurement case; `make` builds one from what users write.

    Attributes
    ----------
    block_order : int
        Order of the blocks that free page reporting tells; 0 for all other protocols.
    given : uint64 array or None
        The pages that the user gave as the pattern.
    start : balloonlab.pages.Buddy or None
        The guest's allocator before the operation; None until the case is `ready`. Takes 9
        bytes for each page of the guest, which a plan of many cases should not hold.
    """

    memory_pages: int
    balloon_pages: int
    protocol: str
    pattern: str
    order: str
    discard: str
    touched: bool
    thp: bool
    wait: str
    repeats: int
    operation: str
    host: str
    bitmaps: int
    steps: int
    block_order: int
    given: npt.NDArray[np.uint64] | None = field(default=None, compare=False, repr=False)
    start: Buddy | None = field(default=None, compare=False, repr=False)

    @classmethod
    def plan(
        cls,
        *,
        memory: Size | None = None,
        balloon: Size | None = None,
        protocol: str | None = None,
        pattern: Pattern = "idle",
        order: str = "as is",
        operation: str = "inflate",
        touched: bool = True,
        thp: bool = False,
        repeats: int = 5,
        host: str = "lab",
        discard: str | None = None,
        wait: str = "block",
        bitmaps: int = MAX_BITMAPS,
        steps: int = 1,
        block_order: int = qemu.PAGEBLOCK_ORDER,
    ) -> Case:
        """Check each argument of `balloonlab.measure` by itself; makes no pages yet."""
        check_choice("host", host, tuple(DEFAULT_PROTOCOLS))
        protocol = DEFAULT_PROTOCOLS[host] if protocol is None else protocol
        if host == "qemu":
            can = {"wait": wait, "bitmaps": bitmaps, "steps": steps, "operation": operation}
            qemu.check_arguments(protocol, discard, **can, order=order)
        default = _usual_discard(host, protocol)
        discard = default if discard is None else discard
        check_choice("order", order, patterns.ORDERS)
        check_choice("operation", operation, OPERATIONS)
        check_choice("discard", discard, tuple(DISCARDS))
        check_choice("wait", wait, WAITS)
        for name, value in (("touched", touched), ("thp", thp)):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        check_number("repeats", repeats, 1)
        check_number("bitmaps", bitmaps, 0, MAX_BITMAPS)
        check_number("steps", steps, 1)
        check_number("block_order", block_order, 0, qemu.LARGEST_ORDER)
        block_order = int(block_order) if protocol == qemu.REPORTING else 0
        fitting = default_memory(pattern)
        memory_pages = parse_pages(fitting if memory is None else memory, "memory")
        if host == "qemu":
            check_memory(memory_pages)
        given = None
        if not isinstance(pattern, str):
            given, pattern = as_pfns(pattern, "pattern"), CUSTOM
        if balloon is not None:
            balloon_pages = parse_pages(balloon, "balloon")
        elif given is None:
            balloon_pages = patterns.default_pages(pattern, memory_pages)
        else:
            balloon_pages = given.size
        return cls(
            memory_pages=memory_pages,
            balloon_pages=balloon_pages,
            protocol=protocol,
            pattern=pattern,
            order=order,
            discard=discard,
            touched=bool(touched),
            thp=bool(thp),
            wait=wait,
            repeats=int(repeats),
            operation=operation,
            host=host,
            bitmaps=int(bitmaps),
            steps=int(steps),
            block_order=block_order,
            given=given,
        )

    @classmethod
    def make(cls, **arguments: Any) -> Case:
        """Check every argument of `balloonlab.measure`, and that the guest fits; see there."""
        case = cls.plan(**arguments)
        check_available(case.memory_bytes, case.touched)
        return case.ready()

    def ready(self, start: Buddy | None = None) -> Case:
        """Check that the arguments go together, and make the allocator's state.

        Parameters
        ----------
        start : balloonlab.pages.Buddy, optional
            That of a case with the same `pages_key`, which is then not made again.

        Raises
        ------
        ValueError
            The pattern has no pages for a balloon of that size in such a guest, or the
            sizes exclude each other; the message says what would fit.
        """
        check_sizes(size_literal(self.memory_bytes), size_literal(self.balloon_bytes))
        if self.balloon_pages == 0:
            raise ValueError("balloon must hold at least one page to be measured, got 0")
        if self.steps > self.balloon_pages:
            raise ValueError(
                f"steps must be at most {self.balloon_pages}, one a page, got {self.steps}"
            )
        start = self._make_start() if start is None else start
        told = self._count_told(start) if self.protocol == qemu.REPORTING else self.balloon_pages
        return replace(self, start=start, balloon_pages=told)

    def _count_told(self, start: Buddy) -> int:
        """Count the pages that the balloon gets: whole free blocks of `block_order`."""
        pages = 1 << self.block_order
        by_order = start.free_blocks()[self.block_order :]
        free_pages = int(by_order @ (pages << np.arange(by_order.size)))
        told = min(free_pages, self.balloon_pages // pages * pages)
        if told == 0:
            raise ValueError(
                f"pattern and balloon must hold a whole block of block_order={self.block_order} "
                f"({pages} pages, aligned) to be reported, these {self.balloon_pages} pages of "
                f"pattern {self.pattern} hold none"
            )
        return told

    def _make_start(self) -> Buddy:
        if self.order == "as is" and self.pattern == "idle":
            return Buddy.idle(self.memory_pages)
        if self.order == "as is" and self.pattern == "aged":
            return self._aged()
        if self.protocol == qemu.REPORTING:
            return Buddy.joining(self.memory_pages, self._pages(), "pattern")
        pages = patterns.ordered(self._pages(), self.order)
        return Buddy.holding(self.memory_pages, pages, "pattern")

    def _aged(self) -> Buddy:
        buddy = age(self.memory_bytes).buddy
        free_pages = int(buddy.free_blocks() @ (1 << np.arange(buddy.free_blocks().size)))
        if self.balloon_pages > free_pages:
            self._pages()  # raises, and says what would fit
        return buddy

    def _pages(self) -> npt.NDArray[np.uint64]:
        """Make the pages of the balloon in the pattern's own order; drawn ones with ``rng=0``."""
        if self.given is None:
            return patterns.make(
                self.pattern, size_literal(self.memory_bytes), size_literal(self.balloon_bytes)
            )
        if self.given.size != self.balloon_pages:
            raise ValueError(
                "balloon must be the size of the pages given as pattern= "
                f"({size_literal(self.given.size * PAGE_BYTES)}, {self.given.size} pages) or left "
                "out, "
                f"got {size_literal(self.balloon_bytes)}"
            )
        return self.given

    @property
    def memory_key(self) -> tuple[str, int, bool, bool]:
        """What cases that can share a mapping agree in."""
        return self.host, self.memory_pages, self.thp, self.touched

    @property
    def pages_key(self) -> tuple[int, int, str, str, bool]:
        """What cases that start from the same allocator agree in."""
        joined = self.protocol == qemu.REPORTING
        return self.memory_pages, self.balloon_pages, self.pattern, self.order, joined

    @property
    def memory_bytes(self) -> int:
        """RAM of the guest."""
        return self.memory_pages * PAGE_BYTES

    @property
    def balloon_bytes(self) -> int:
        """Size of the balloon."""
        return self.balloon_pages * PAGE_BYTES

    def targets(self) -> list[int]:
        """List the sizes in pages that the balloon is set to, one after the other."""
        done = [self.balloon_pages * step // self.steps for step in range(1, self.steps + 1)]
        return done if self.operation == "inflate" else [self.balloon_pages - n for n in done]

    def allocator(self) -> Buddy:
        """Copy the allocator that the case starts from, a fresh one for each repeat."""
        return self._make_start() if self.start is None else deepcopy(self.start)

    def label(self) -> str:
        """Name the case on one line, for progress bars."""
        state = "touched" if self.touched else "untouched"
        guest = f"{self.host}, {size_literal(self.memory_bytes)} {state}, {self.pattern}"
        return f"{guest}: {self.operation}, {self.protocol} by {self.discard}"


def make_case(arguments: Mapping[str, Any]) -> Case:
    """Make a case from arguments by name; names the unknown ones.

    Raises
    ------
    TypeError
        An argument that no case takes.
    ValueError, MemoryError
        As `Case.make`.
    """
    known = signature(Case.plan).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(f"unknown argument {', '.join(unknown)}: a case takes {', '.join(known)}")
    return Case.make(**arguments)
