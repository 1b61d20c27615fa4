"""One repeat with Linux's own driver, at balloonlab's device over vhost-user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..host import BalloonDevice
from ..host.backend import HINTING, REPORTING
from ..kernels import clock
from ..kernels.encode import DESCRIPTOR_BYTES
from ..kernels.pfn import PFNS_PER_BUFFER
from ..linux import STATES, LinuxGuest, check_room, find
from ..sizes import GIB, MIB, PAGE_BYTES, format_size
from ..wire import Feature
from .case import Case
from .checks import Pages, check_after, check_before, check_rss_fall
from .stages import WARM_UP, Repeat, Work
from .stages_of_linux import ROUNDS, Slope, host_ns, stage_times
from .tables import OWN_CHECKS, STEPS

LEAST_BYTES, MOST_BYTES = 256 * MIB, 16 * GIB
"""Guests that were tried."""

EXTRA = {HINTING: Feature.FREE_PAGE_HINT, REPORTING: Feature.REPORTING}
"""Features that protocols need besides; what is not measured is not offered."""

WARM_UP_PAGES = 512 * MIB // PAGE_BYTES
"""Of the guest of a warm-up: each repeat has a fresh one, so nothing but compiling is left."""

MARGIN_BYTES = 16 * MIB
"""What a guest keeps for itself beside the balloon, lest it kill its only process."""

PFN = "pfn"

OTHER_ROWS = 10_000
"""Of the log: for messages that are not full, and blocks."""

KEPT_BYTES = 128 * MIB
"""Of the guest's file where its size does not matter."""

LEAST_HINTED = 0.9
"""Of the balloon that was asked for: a guest hints its whole blocks of 4 MiB only."""


def check_memory(memory_pages: int) -> None:
    """Refuse guests that are not whole MiB, or of sizes that were not tried (ValueError)."""
    memory_bytes = memory_pages * PAGE_BYTES
    if memory_bytes % MIB or not LEAST_BYTES <= memory_bytes <= MOST_BYTES:
        raise ValueError(
            f"memory must be whole MiB from {format_size(LEAST_BYTES)} to "
            f"{format_size(MOST_BYTES)} with guest='linux', got {format_size(memory_bytes)}"
        )


def default_pages(pattern: str, memory_pages: int) -> int:
    """Return the pages of a balloon by default: what guests in that state have free."""
    most = memory_pages // 8 * 7 if memory_pages >= WARM_UP_PAGES else memory_pages // 2
    return most if pattern == "idle" else memory_pages // 4


def share(case: Case) -> None:
    """Map nothing: each repeat boots a guest of its own; refuses what does not fit."""
    check_room(case.memory_bytes if case.touched else case.memory_bytes // 4)


def warm_up(case: Case) -> Case:
    """Return the case in a small guest: it compiles what the case runs, in seconds."""
    if case.memory_pages <= WARM_UP_PAGES:
        return case
    n_pages = default_pages("idle", WARM_UP_PAGES)
    return replace(case, memory_pages=WARM_UP_PAGES, balloon_pages=n_pages, pattern="idle", steps=1)


_SLOPE = [name for name in OWN_CHECKS["linux"] if name.startswith(("page_", "step_"))]

Spans = list[tuple[int, int]]
"""When each step of an operation began and ended, in ns."""


def use(case: Case, shared: None) -> LinuxGuest:
    """Boot a guest for one repeat."""
    n_steps = ROUNDS * len(STEPS) + case.steps
    return LinuxGuest(
        find(case.linux, case.modules),
        case.memory_bytes,
        policy=case.policy,
        log_rows=4 * (case.balloon_pages // PFNS_PER_BUFFER + n_steps) + OTHER_ROWS,
        room=case.memory_pages + ROUNDS * sum(STEPS),
        extra=EXTRA.get(case.protocol, Feature(0)),
        disk=STATES[case.pattern].disk,
    )


def operate_in_linux(case: Case, guest: LinuxGuest, run_id: str, number: int) -> Repeat:
    """Rehearse the case's operation and carry it out once, in a fresh guest."""
    guest.age(case.pattern)
    _leave_free(case, guest)
    guest.load_driver()
    if case.touched:
        guest.back_all()
    own_pages = case.memory_pages - (guest.wire.meminfo("MemFree") - MARGIN_BYTES) // PAGE_BYTES
    check = check_before(case, guest.ram, stray_pages=own_pages)
    slopes = _rehearse(case, guest) if case.protocol == PFN else {}
    if case.operation == "deflate":
        guest.set_balloon(case.balloon_pages)
        guest.queues["inflate"].settle()  # else what is held is read below, and so backed again
    seen = _Seen(guest, case.protocol)
    for queue in guest.queues.values():
        queue.clear()
    spans = _WAYS[case.protocol](case, guest)
    queue = guest.queues[case.operation if case.protocol == PFN else case.protocol]
    rows, sent = queue.log.rows[: int(queue.log.length[0])], queue.sent()
    ballooned = _pages_of(case, guest, sent)
    if case.protocol != PFN:
        case = _as_hinted(case, int(ballooned.sum()))
    check |= check_after(case, guest.ram, ballooned, seen.count_lost) | seen.falls(case)
    if number != WARM_UP:  # which compiles
        check_rss_fall(case, check["rss_fall_bytes"])
    check |= slopes[case.operation].summary() if slopes else dict.fromkeys(_SLOPE, 0)
    work = Work(
        case.protocol,
        n_kicks=int((rows[:, 0] == clock.DECODE).sum()),
        wire_bytes=len(sent) * (4 if case.protocol == PFN else DESCRIPTOR_BYTES),
        n_records=len(sent),
        n_translations=queue.n_translations,
        n_discards=queue.n_discards,
    )
    slope = slopes.get(case.operation)
    times = stage_times(case.operation, rows, spans, case.balloon_pages, slope)
    return Repeat.of(case, run_id, number, work, times, **check)


def _leave_free(case: Case, guest: LinuxGuest) -> None:
    """Have the guest fill its memory with a file whose pages are known.

    All that the balloon leaves where the guest is to send all that is free; else some of it.
    """
    available = guest.wire.meminfo("MemAvailable")
    spare = available - case.balloon_bytes - MARGIN_BYTES
    if spare < 0:
        raise ValueError(
            f"balloon must be at most {format_size(max(0, available - MARGIN_BYTES))}, what a "
            f"guest of {format_size(case.memory_bytes)} has available in state {case.pattern} "
            f"less {format_size(MARGIN_BYTES)}, got {format_size(case.balloon_bytes)}"
        )
    guest.keep(min(spare, KEPT_BYTES) if case.protocol == PFN else spare)


def _rehearse(case: Case, guest: LinuxGuest) -> dict[str, Slope]:
    """Inflate and deflate step by step without discards; return the guest's time per page."""
    rounds = min(ROUNDS, case.balloon_pages // 2 // sum(STEPS))
    if rounds < 2:
        raise ValueError(
            f"balloon must hold {4 * sum(STEPS)} pages for its steps with guest='linux', got "
            f"{case.balloon_pages}"
        )
    queues, rng = guest.queues.values(), np.random.default_rng(0)
    for queue in queues:
        queue.rehearse(True)
    slopes, target = {}, 0
    for operation, sign in (("inflate", 1), ("deflate", -1)):
        steps_ns = np.zeros((rounds, len(STEPS)))
        for row in steps_ns:
            for i in rng.permutation(len(STEPS)):
                for queue in queues:
                    queue.clear()
                target += sign * STEPS[i]
                begin_ns, end_ns = guest.set_balloon(target)
                logs = [queue.log for queue in queues]
                busy_ns = sum(host_ns(log.rows[: int(log.length[0])]) for log in logs)
                row[i] = end_ns - begin_ns - busy_ns
                for queue in queues:  # after the answer, and no part of the step
                    queue.settle()
        slopes[operation] = Slope.of(steps_ns)
    for queue in queues:
        queue.rehearse(False)
    return slopes


def _move(case: Case, guest: LinuxGuest) -> Spans:
    """Set the balloon to one size after the other, and show how far it is, in twenty steps.

    Drawing runs beside timed code: each takes a millisecond of a processor that mostly waits.
    """
    shown, step = 0, max(1, case.balloon_pages // 20)

    def report(n_sent: int) -> None:
        nonlocal shown
        if n_sent - shown >= step:
            guest.advance((n_sent - shown) * PAGE_BYTES)
            shown = n_sent

    spans = []
    for target in case.targets():
        begin_ns, end_ns = guest.set_balloon(target, report=report)
        spans.append((begin_ns, max(end_ns, _settle(guest.queues[case.operation]))))
    return spans


def _settle(queue: BalloonDevice) -> int:
    """Wait until a queue holds nothing that it has answered; return when it last did anything."""
    queue.settle()
    return int(queue.log.rows[queue.log.length[0] - 1, 2])


def _hint(case: Case, guest: LinuxGuest) -> Spans:
    """Ask for hints, and wait for the last of them; the guest keeps them out of use until told."""
    begin_ns = guest.hint()
    log = guest.queues[HINTING].log
    return [(begin_ns, int(log.rows[log.length[0] - 1, 2]))]


def _report(case: Case, guest: LinuxGuest) -> Spans:
    """Take the reports that the guest makes by itself, until it has no more."""
    begin_ns = guest.report()
    log = guest.queues[REPORTING].log
    return [(begin_ns, int(log.rows[log.length[0] - 1, 2]))]


_WAYS: dict[str, Callable[[Case, LinuxGuest], Spans]] = {
    PFN: _move, HINTING: _hint, REPORTING: _report,
}  # fmt: skip


def _pages_of(case: Case, guest: LinuxGuest, sent: npt.NDArray[np.int64]) -> Pages:
    """Return which pages of RAM were sent; refuses faults and failed calls."""
    faults = [fault for queue in guest.queues.values() for fault in queue.faults().items()]
    errors = sum(queue.n_discard_errors for queue in guest.queues.values())
    if errors or faults:
        raise RuntimeError(
            f"the operation went wrong: {errors} madvise calls failed, bad records {faults}; "
            "nothing is reported"
        )
    ballooned = np.zeros(case.memory_pages, bool)
    first, n_pages = guest.ram.page_index(sent[:, 0]), sent[:, 1]
    pages = np.repeat(first - np.cumsum(n_pages) + n_pages, n_pages) + np.arange(n_pages.sum())
    ballooned[pages] = True
    return ballooned[: guest.ram.memory_pages]


def _as_hinted(case: Case, n_pages: int) -> Case:
    """Return the case with the balloon that came; refuses one that is far from what was asked."""
    if not LEAST_HINTED * case.balloon_pages <= n_pages <= case.balloon_pages / LEAST_HINTED:
        raise RuntimeError(
            f"the guest sent {n_pages} pages in free blocks where its free memory is about "
            f"{case.balloon_pages}; nothing is reported"
        )
    return replace(case, balloon_pages=n_pages)


class _Seen:
    """What host and guest hold right before an operation, to be compared with afterwards."""

    def __init__(self, guest: LinuxGuest, protocol: str) -> None:
        self._guest, self._name = guest, "MemFree" if protocol == HINTING else "MemTotal"
        self._kept = guest.find_kept()
        self._guest_bytes = guest.wire.meminfo(self._name)
        self._resident, self._held_bytes = guest.ram.resident(), guest.ram.held_bytes()

    def count_lost(self, ballooned: Pages) -> int:
        """Count the pages outside the balloon that are gone, or are not what they were."""
        self._fall = self._held_bytes - self._guest.ram.held_bytes()  # before anybody reads them
        gone = self._resident & ~ballooned & ~self._guest.ram.resident()
        return int(gone.sum()) + self._guest.count_lost(self._kept, ballooned)

    def falls(self, case: Case) -> dict[str, int]:
        """Return what host and guest hold less now; refuses what does not fit the balloon."""
        guest_fall = self._guest_bytes - self._guest.wire.meminfo(self._name)
        sign = 1 if case.operation == "inflate" else -1
        wrong = self._guest.check_kept()
        if wrong or (case.protocol == PFN and guest_fall != sign * case.balloon_bytes):
            raise RuntimeError(
                f"the operation went wrong (linux): the guest's {self._name} fell by {guest_fall} "
                f"bytes for a balloon of {case.balloon_bytes}, and it found {wrong} pages of its "
                "file changed; nothing is reported"
            )
        kept = {"guest_fall_bytes": guest_fall, "kept_pages": self._kept.pages.size}
        return {"rss_fall_bytes": self._fall, **kept}
