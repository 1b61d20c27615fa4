"""One case of the laboratory: everything that is chosen before it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import wire
from ..host import DISCARDS
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..layout import check_sizes
from ..pages import Buddy, as_pfns, check_in_ram
from ..pages.patterns import PATTERNS
from ..sizes import PAGE_BYTES, Size, format_size, parse_pages
from .resources import check_available

OPERATIONS = ("inflate", "deflate")
HOSTS = ("lab",)
WAITS = ("block", "busy")

Pattern = str | npt.ArrayLike


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}")


@dataclass(frozen=True)
class Case:
    """A checked measurement case; `make` builds one from what users write.

    Attributes
    ----------
    pfns : uint64 array or None
        The balloon's pages in order; None when an idle guest's allocator chooses.
    """

    memory_pages: int
    balloon_pages: int
    protocol: str
    pattern: str
    discard: str
    touched: bool
    thp: bool
    wait: str
    repeats: int
    operation: str = "inflate"
    host: str = "lab"
    bitmaps: int = MAX_BITMAPS
    steps: int = 1
    pfns: npt.NDArray[np.uint64] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def make(
        cls,
        *,
        memory: Size = "8GiB",
        balloon: Size | None = None,
        protocol: str = "bitmap-v4",
        pattern: Pattern = "idle",
        operation: str = "inflate",
        touched: bool = True,
        thp: bool = False,
        repeats: int = 5,
        host: str = "lab",
        discard: str | None = None,
        wait: str = "block",
        bitmaps: int = MAX_BITMAPS,
        steps: int = 1,
    ) -> Case:
        """Check every argument of `balloonlab.measure`, and that the guest fits; see there."""
        default = wire.get(protocol).discard
        discard = default if discard is None else discard
        _check_choice("operation", operation, OPERATIONS)
        _check_choice("host", host, HOSTS)
        _check_choice("discard", discard, DISCARDS)
        _check_choice("wait", wait, WAITS)
        for name, value in (("touched", touched), ("thp", thp)):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        _check_number("repeats", repeats, 1)
        _check_number("bitmaps", bitmaps, 0, MAX_BITMAPS)
        _check_number("steps", steps, 1)
        if isinstance(pattern, str):
            _check_choice("pattern", pattern, tuple(PATTERNS))
            name = pattern
            if balloon is None:
                balloon = parse_pages(memory, "memory") // 8 * 7 * PAGE_BYTES
            memory_pages, balloon_pages = check_sizes(memory, balloon)
            check_available(memory_pages * PAGE_BYTES, bool(touched))
            pfns = None if name == "idle" else PATTERNS[name](memory, balloon)
        else:
            name = "custom"
            pfns = as_pfns(pattern, "pattern")
            size = pfns.size * PAGE_BYTES
            if balloon is not None and parse_pages(balloon, "balloon") != pfns.size:
                raise ValueError(
                    f"balloon must be the size of the pages given as pattern= "
                    f"({format_size(size)}, {pfns.size} pages) or left out, got {balloon!r}"
                )
            memory_pages, balloon_pages = check_sizes(memory, size)
            check_available(memory_pages * PAGE_BYTES, bool(touched))
            check_in_ram(pfns, memory_pages)
        if balloon_pages == 0:
            raise ValueError("balloon must hold at least one page to be measured, got 0")
        if steps > balloon_pages:
            raise ValueError(f"steps must be at most {balloon_pages}, one a page, got {steps}")
        return cls(
            memory_pages=memory_pages,
            balloon_pages=balloon_pages,
            protocol=protocol,
            pattern=name,
            discard=discard,
            touched=bool(touched),
            thp=bool(thp),
            wait=wait,
            repeats=int(repeats),
            operation=operation,
            bitmaps=int(bitmaps),
            steps=int(steps),
            pfns=pfns,
        )

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
        """Make the guest's allocator in the state that this case starts from."""
        if self.pfns is None:
            return Buddy.idle(self.memory_pages)
        return Buddy.holding(self.memory_pages, self.pfns)

    def label(self) -> str:
        """Name the case on one line, for progress bars."""
        state = "touched" if self.touched else "untouched"
        return f"{self.operation}, {self.protocol} by {self.discard}, {state}"
