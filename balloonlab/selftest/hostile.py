"""``balloonlab fuzz``: the device against a hostile guest, with canaries around its RAM."""

from __future__ import annotations

import mmap
from contextlib import ExitStack

import numpy as np
import pandas as pd

from .. import wire
from ..host.backing import DONTNEED, WILLNEED
from ..host.crew import Crew
from ..host.device import EXTENTS, make_state, no_balloon
from ..kernels import clock, contents, faults, vring
from ..kernels import fuzz as kernels
from ..kernels import hostile as guests
from ..kernels.contents import SIGNATURE
from ..kernels.translate import Memory
from ..measurement.options import check_choice, check_number
from ..measurement.resources import check_facilities
from ..queue import QUEUE_BYTES, Virtqueue
from ..sizes import PAGE_BYTES
from ..terminal import Progress
from ..vcpu import Vcpu
from ..wire.blocks import BLOCKS
from . import hostile_front_end
from .contents import POLICIES, combinations

CHUNKS = {"thread": 5_000, "kvm": 100}
"""Cases in one compiled call, on either queue in turns; Ctrl-C is heard in between. In a virtual
machine so many cases find all memory in its page tables."""

SESSIONS = "vhost-user"
"""The protocol of rows about sessions."""

CASES_PER_SESSION = 1000
"""Messages for each session of vhost-user, which takes as long as some thousands of them."""

QUEUE_PAGES = QUEUE_BYTES // PAGE_BYTES
OWN_PAGES = QUEUE_PAGES + 1

LAYOUT = (
    (None, 4, False),
    (0, 24, True),
    (None, 4, False),
    (24, 4, False),  # ROM right behind RAM
    (40, 40, True),
    (80, 4, False),
    (100, 1, True),
    (None, 4, False),
    (120, OWN_PAGES, False),
    (None, 4, False),
)
"""The mapping, piece by piece: first page number (None where no slot is), pages, balloonable."""

SPAN = 130
"""Page numbers that are worth naming: those of `LAYOUT` and a little beyond."""

MUST_BE_ZERO = (
    "madvise calls that failed",
    "canary words changed",
    "discards outside RAM",
    "pages discarded twice",
    *hostile_front_end.MUST_BE_ZERO,
)


def fuzz(
    cases: int = 100_000, seed: int = 1, progress: bool = True, guest: str = "thread"
) -> pd.DataFrame:
    """Play hostile messages and queues against the device on real memory.

    Every wire format, blocks of reporting and hinting, and way to discard gets its share, half of
    it on the inflate queue and half on the deflate queue; for each thousand messages a hostile
    front-end has a session of vhost-user (`balloonlab.selftest.hostile_front_end`). The guest's RAM
    lies in pieces between canary pages: unmapped neighbours, ROM, and the guest kernel's own
    memory. After each case every canary is checked, and every discarded extent is compared with
    the memory map.

    Parameters
    ----------
    cases : int
        Messages in all.
    seed : int
        Where the generator starts; the same seed plays the same cases.
    progress : bool
        Show a progress bar.
    guest : {'thread', 'kvm'}
        With ``kvm`` the memory of messages is that of a virtual machine, too: touched from inside
        again and again, its canaries checked from inside as well. Sessions stay as they are.

    Returns
    -------
    pandas.DataFrame
        Columns ``protocol``, ``discard``, ``finding``, ``count``.

    Raises
    ------
    ValueError
        `cases` is less than one for each combination, or `seed` is negative.
    NotImplementedError
        The platform lacks what measuring needs.
    KvmError
        There is no virtual machine to be had.

    Examples
    --------
    >>> found = fuzz(100, progress=False)
    >>> int(found.loc[found["finding"].isin(MUST_BE_ZERO), "count"].sum())
    0
    """
    check_facilities()
    check_number("cases", cases, 1)
    check_number("seed", seed, 0)
    check_choice("guest", guest, CHUNKS)
    ways = [*combinations(), *((BLOCKS.name, policy) for policy in POLICIES)]
    if cases < len(ways):
        raise ValueError(f"cases must be at least {len(ways)}, got {cases}")
    share = -(-cases // len(ways))
    rows: list[tuple[object, ...]] = []
    chunk = min(CHUNKS[guest], -(-share // 2))
    steps = len(ways) * -(-share // chunk) + 1
    with Progress(steps, progress) as bar, ExitStack() as stack:
        vcpu = stack.enter_context(Vcpu()) if guest == "kvm" else None
        for number, (protocol, discard) in enumerate(ways):
            bar.describe(f"hostile guest: {protocol} by {discard}")
            found = _play(protocol, discard, share, chunk, seed + number, bar, vcpu)
            rows += [(protocol, discard, *counted) for counted in found.items()]
        bar.describe("hostile front-ends: vhost-user")
        found = hostile_front_end.play(max(1, cases // CASES_PER_SESSION), seed)
        rows += [(SESSIONS, "range", *counted) for counted in found.items()]
        bar.advance()
    return pd.DataFrame(rows, columns=["protocol", "discard", "finding", "count"])


def _play(
    protocol: str,
    discard: str,
    cases: int,
    chunk: int,
    seed: int,
    bar: Progress,
    vcpu: Vcpu | None,
) -> dict[str, int]:
    memory, canaries, own = _map_memory()
    queue_area = memory.ram[own * PAGE_BYTES :][:QUEUE_BYTES]
    message = memory.ram[(own + QUEUE_PAGES) * PAGE_BYTES :][: 8 * guests.MESSAGE_WORDS]
    balloon = no_balloon(memory.ram.size)
    read_as = BLOCKS if protocol == BLOCKS.name else wire.get(protocol)
    policy = POLICIES[discard]
    crews = [Crew(policy, memory, verb, EXTENTS) for verb in (DONTNEED, WILLNEED)]
    queues = [
        make_state(read_as, policy, operation, balloon, crew=crew)
        for operation, crew in zip(("inflate", "deflate"), crews, strict=True)
    ]
    tallies, in_balloon = kernels.Tallies.zero(), np.zeros_like(balloon)
    log = clock.Log.empty(1000)
    with Virtqueue(queue_area, busy_wait=True) as queue, crews[0], crews[1]:
        guest = guests.Guest(
            queue=queue.ends,
            message=message.view(np.uint64),
            gpa=(120 + QUEUE_PAGES) * PAGE_BYTES,
            span=SPAN,
            state=np.array([seed * 0x9E3779B97F4A7C15 % 2**64 or 1], np.uint64),
        )
        for number, done in enumerate(range(0, cases, chunk)):
            n = min(chunk, cases - done)
            state = queues[number % 2]
            if vcpu:
                vcpu.call(contents.touch, memory.ram, 0, memory.ram.size // PAGE_BYTES)
            queue.ring.avail[vring.INDEX] = queue.ring.used[vring.INDEX] = 0
            kernels.run_cases(guest, memory, state, in_balloon, canaries, n, tallies, log)
            if vcpu:
                changed = vcpu.call(kernels.count_changed, memory.ram, canaries)
                tallies.counts["canaries_changed"] += changed
            bar.advance()
    bad = np.sum([state.faults[0]["counts"] for state in queues], axis=0)
    states = [state.state[0] for state in queues]
    counts = tallies.counts[0]
    stopped = {
        f"queue refused: {vring.BROKEN_REASONS[reason]}": int(tallies.stopped[reason])
        for reason in range(vring.BAD_INDEX, vring.BAD_LENGTH + 1)
    }
    carried_out = int(counts["carried_out"])
    return {
        "cases": cases,
        "messages carried out": carried_out,
        "kicks without a message": cases - carried_out - sum(stopped.values()),
        **stopped,
        **{
            f"record {'passed over' if kind == faults.REPEATED else 'refused'}: {text}": int(count)
            for kind, (text, count) in enumerate(zip(faults.DESCRIPTIONS, bad, strict=True))
        },
        "madvise calls": sum(int(state["n_discards"]) for state in states),
        "madvise calls that failed": sum(int(state["n_discard_errors"]) for state in states),
        "canary words changed": int(counts["canaries_changed"]),
        "discards outside RAM": int(counts["discards_outside"]),
        "pages discarded twice": int(counts["discarded_again"]),
    }


def _map_memory() -> tuple[Memory, np.ndarray, int]:
    """Map `LAYOUT`; returns the memory, the canary pages, and where the guest's own pages are."""
    n_pages = sum(pages for _, pages, _ in LAYOUT)
    mapping = mmap.mmap(-1, n_pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ram = np.frombuffer(mapping, np.uint8)
    slots, own, first = [], 0, 0
    canaries: list[int] = []
    for start, n, balloonable in LAYOUT:
        if start is not None:
            slots.append((start, n, first, int(balloonable)))
        if n == OWN_PAGES:
            own = first
        elif not balloonable:
            canaries += range(first, first + n)
        first += n
    pages = np.array(canaries, np.int64)
    for word in (0, -1):  # the first and the last of each
        ram.view(np.uint64).reshape(n_pages, -1)[pages, word] = pages.astype(np.uint64) ^ SIGNATURE
    return Memory(ram, ram.ctypes.data, np.array(slots, np.int64)), pages, own
