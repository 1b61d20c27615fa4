"""What is to be captured: state, size and share of each, and the list of all shipped traces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ..linux import NATIVE as NATIVE_STATES
from ..linux import STATES
from ..measurement.case import size_literal
from ..measurement.options import check_choice, check_number
from ..pages.checks import not_one_of
from ..sizes import GIB, MIB, Size, format_size, parse_size

LEAST_BYTES = 256 * MIB
"""Memory in which the kernel boots and has something left."""

ALL = "all"

FULL_SIZES = (2 * GIB, 4 * GIB, 8 * GIB)
ALL_SHARES, MOST = (0.25, 0.5, 0.85), 0.85
AT_ALL_SHARES = dict.fromkeys(("idle", "tmpfs30", "tmpfs50", "tmpfs70"), 8 * GIB)
AT_ALL_SHARES["anon"] = 4 * GIB  # beyond, its random orders take 1.6 MB each
"""What the traces that come with balloonlab are of: all states at 85 %, some at all shares in
guests up to a size."""


GUESTS = QEMU, NATIVE = "qemu", "linux"
"""Who runs a guest: an unmodified QEMU, or itself, as a process (User-Mode Linux)."""


class Planned(NamedTuple):
    """What is to be captured; `make` builds one from what users write.

    Attributes
    ----------
    state : str
        What the guest does before, one of `STATES`.
    memory_bytes : int
        RAM of the guest.
    share : float
        Share of it that the balloon takes.
    seed : int
        Of what the guest does at random.
    guest : str
        Who runs it, ``qemu`` or ``linux``.
    """

    state: str
    memory_bytes: int
    share: float
    seed: int = 1
    guest: str = QEMU

    @classmethod
    def make(
        cls, state: str, memory: Size, share: float, seed: int = 1, guest: str = QEMU
    ) -> Planned:
        """Check the arguments of `record`; raises its errors."""
        check_choice("guest", guest, GUESTS)
        if state not in STATES:
            raise not_one_of("state", state, STATES)
        if guest == NATIVE and STATES[state].anonymous:
            raise ValueError(
                f"state must be one of {', '.join(NATIVE_STATES)} with guest={NATIVE!r}, got "
                f"{state!r}: each scattered page of a process is a mapping of the host there, "
                f"whose limit is 65,530; capture it with guest={QEMU!r}"
            )
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
        return cls(state, memory_bytes, percent / 100, int(seed), guest)

    @property
    def name(self) -> str:
        """The name of the capture: ``idle-8GiB-85`` in QEMU, ``linux-idle-8GiB-85-s1`` natively."""
        name = f"{self.state}-{size_literal(self.memory_bytes)}-{round(100 * self.share)}"
        return name if self.guest == QEMU else f"{NATIVE}-{name}-s{self.seed}"


def plan(
    states: Iterable[str] = (ALL,),
    memory: Iterable[Size] | None = None,
    share: Iterable[float] | None = None,
    seed: int | Iterable[int] = 1,
    guest: str = QEMU,
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
    seed : int, or iterable of int
        Of what the guests do at random; several with ``guest="linux"``.
    guest : {"qemu", "linux"}
        Who runs the guests; as of `record`.

    Examples
    --------
    >>> [planned.name for planned in plan(["idle"], ["4GiB"])]
    ['idle-4GiB-25', 'idle-4GiB-50', 'idle-4GiB-85']
    """
    wanted, chosen = [], list(states)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if guest == QEMU and len(seeds) > 1:
        raise ValueError(f"seed must be one with guest={QEMU!r}, got {seeds}: names do not have it")
    there = NATIVE_STATES if guest == NATIVE else STATES
    for size in FULL_SIZES if memory is None else memory:
        for state in there if ALL in chosen else chosen:
            at_all = parse_size(size, "memory") <= AT_ALL_SHARES.get(state, 0)
            defaults = ALL_SHARES if at_all and guest == QEMU else (MOST,)
            for part in defaults if share is None else share:
                wanted += [Planned.make(state, size, part, one, guest) for one in seeds]
    return list(dict.fromkeys(wanted))
