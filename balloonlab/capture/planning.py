"""What is to be captured: state, size and share of each, and the list of all shipped traces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ..measurement.case import size_literal
from ..measurement.options import check_number
from ..pages.checks import not_one_of
from ..sizes import GIB, MIB, Size, format_size, parse_size
from .states import STATES

LEAST_BYTES = 256 * MIB
"""Memory in which the kernel boots and has something left."""

ALL = "all"

FULL_SIZES = (2 * GIB, 4 * GIB, 8 * GIB)
ALL_SHARES, MOST = (0.25, 0.5, 0.85), 0.85
AT_ALL_SHARES = dict.fromkeys(("idle", "tmpfs30", "tmpfs50", "tmpfs70"), 8 * GIB)
AT_ALL_SHARES["anon"] = 4 * GIB  # beyond, its random orders take 1.6 MB each
"""What the traces that come with balloonlab are of: all states at 85 %, some at all shares in
guests up to a size."""


class Planned(NamedTuple):
    """What is to be captured; `make` builds one from what users write."""

    state: str
    memory_bytes: int
    share: float
    seed: int = 1

    @classmethod
    def make(cls, state: str, memory: Size, share: float, seed: int = 1) -> Planned:
        """Check the arguments of `record`; raises its errors."""
        if state not in STATES:
            raise not_one_of("state", state, STATES)
        memory_bytes = parse_size(memory, "memory")
        if memory_bytes % MIB or memory_bytes < LEAST_BYTES:
            raise ValueError(
                f"memory must be whole MiB and at least {format_size(LEAST_BYTES)} for a Linux "
                f"guest, got {memory!r}"
            )
        percent = round(100 * share)
        if not 1 <= percent <= 99 or not math.isclose(percent, 100 * share):
            raise ValueError(f"share must be 0.01 to 0.99 in whole percent, got {share!r}")
        check_number("seed", seed, 0, 2**64 - 1)
        return cls(state, memory_bytes, percent / 100, int(seed))

    @property
    def name(self) -> str:
        """The name of the capture, as in ``idle-8GiB-85``."""
        return f"{self.state}-{size_literal(self.memory_bytes)}-{round(100 * self.share)}"


def plan(
    states: Iterable[str] = (ALL,),
    memory: Iterable[Size] | None = None,
    share: Iterable[float] | None = None,
    seed: int = 1,
) -> list[Planned]:
    """Return captures: of all states those that come with balloonlab, else every combination.

    Errors as of `record`.

    Parameters
    ----------
    states : iterable of str
        Of `STATES`, or ``all``.
    memory : iterable of int or str, optional
        Sizes of the guests; 2, 4 and 8 GiB by default.
    share : iterable of float, optional
        Shares of the memory; by default 0.85, and for some states 0.25 and 0.5, too.
    seed : int
        Of what the guests do at random.

    Examples
    --------
    >>> [planned.name for planned in plan(["idle"], ["4GiB"])]
    ['idle-4GiB-25', 'idle-4GiB-50', 'idle-4GiB-85']
    """
    wanted, chosen = [], list(states)
    for size in FULL_SIZES if memory is None else memory:
        for state in STATES if ALL in chosen else chosen:
            at_all = parse_size(size, "memory") <= AT_ALL_SHARES.get(state, 0)
            defaults = ALL_SHARES if at_all else (MOST,)
            for part in defaults if share is None else share:
                wanted.append(Planned.make(state, size, part, seed))
    return list(dict.fromkeys(wanted))
