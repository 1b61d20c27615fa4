"""What happens in a booted guest: its state, its balloon, and the record of both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..linux import STATES, GuestError
from ..linux.states import available_target
from ..linux.wire import Wire
from ..measurement.provenance import commit
from ..pages import check_in_ram
from ..sizes import format_size
from .planning import Planned
from .trace_events import DEFLATE, INFLATE, Events, settle

STALLED_S = 15.0
"""Seconds without a page after which the guest has no more; its driver tries again every 0.2 s."""

Report = Callable[[str], None]


class Sent(Protocol):
    """The pages that a guest's device received, in order."""

    @property
    def n_events(self) -> int:
        """Pages sent so far."""

    @property
    def n_held(self) -> int:
        """Pages in the balloon, by that account."""

    def since(self, start: int) -> Events:
        """Return the events after the first `start`."""


class Guest(Protocol):
    """A booted guest, whoever runs it: in QEMU (`booted`), or natively (`native`)."""

    memory_pages: int
    wire: Wire

    @property
    def listener(self) -> Sent:
        """What its device received."""

    def facts(self) -> dict[str, Any]:
        """Return what runs the guest."""

    def spare_bytes(self) -> int:
        """Return what the guest can give without harm."""

    def thp(self) -> str:
        """Return the guest's setting for huge pages."""

    def set_balloon(
        self, n_pages: int, patience_s: float, report: Callable[[float], None] = ...
    ) -> None:
        """Set the balloon's size and wait until it has it, or no page came for `patience_s`."""

    def actual_pages(self, expected: int) -> int:
        """Ask the device for the balloon's pages, until they are as expected."""

    def in_address_map(self, pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return page numbers as `balloonlab.address_map` has them."""


class Captured(NamedTuple):
    """The result of a capture.

    Attributes
    ----------
    guest : dict
        How it was made: kernel, workload, buddyinfo and so on.
    pages : dict of str to numpy.ndarray
        Page numbers (uint64) of each operation, by the name of its trace.
    """

    guest: dict[str, Any]
    pages: dict[str, npt.NDArray[np.uint64]]


def describe(wanted: Planned, guest: Guest) -> dict[str, Any]:
    """Return the facts about the guest."""
    ran_by = guest.facts()
    return {
        "name": wanted.name,
        "state": wanted.state,
        "description": STATES[wanted.state].text,
        "memory_bytes": wanted.memory_bytes,
        "share": wanted.share,
        "seed": wanted.seed,
        "kernel": guest.wire.read("/proc/version").strip(),
        "command_line": guest.wire.read("/proc/cmdline").strip(),
        **ran_by,
        "cpus": 1,
        "utc_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "balloonlab": version("balloonlab"),
        "commit": commit(),
    }


def run_session(wanted: Planned, guest: Guest, report: Report) -> Captured:
    """Bring the guest into its state, and move the balloon."""
    state = STATES[wanted.state]
    available = guest.wire.meminfo("MemAvailable")
    at_boot = guest.wire.buddyinfo()
    workload = [f"seed {wanted.seed}", *state.commands(wanted.memory_bytes, available)]
    for command in workload:
        guest.wire.run(command, _percent(report, f"{wanted.name}: {command.split()[0]}"))
    left = guest.wire.meminfo("MemAvailable")
    target = available_target(guest.memory_pages, wanted.share, guest.spare_bytes())
    if target == 0:
        raise GuestError(f"the guest has only {format_size(left)} available: no balloon fits")
    rows: list[dict[str, Any]] = []
    pages: dict[str, npt.NDArray[np.uint64]] = {}
    for cycle in range(1, state.cycles + 1):
        suffix = f"-{cycle}" if state.cycles > 1 else ""
        for operation, goal in (("inflate", target), ("deflate", 0)):
            show = _percent(report, f"{wanted.name}: {operation}")
            name = f"{wanted.name}-{operation}{suffix}"
            row, pages[name] = _move(guest, operation, goal, show)
            rows.append({"name": name, "operation": operation, "cycle": cycle, **row})
    facts = {
        "thp": guest.thp(),
        "available_bytes": {"at_boot": available, "before": left},
        "workload": workload,
        "buddyinfo_at_boot": at_boot,
        "traces": rows,
    }
    return Captured(facts, pages)


def _move(
    guest: Guest, operation: str, target: int, show: Callable[[float], None]
) -> tuple[dict[str, Any], npt.NDArray[np.uint64]]:
    """Inflate to `target` pages, or as far as the guest can, or deflate to none."""
    memory_pages = guest.memory_pages
    before = guest.wire.buddyinfo()
    start, held = guest.listener.n_events, guest.listener.n_held
    guest.set_balloon(target, STALLED_S, show)
    if target and (reached := guest.listener.n_held) != target:
        guest.set_balloon(reached, STALLED_S)  # the guest has no more: have it stop trying
    moved = abs(guest.listener.n_held - held)
    events = guest.listener.since(start)
    pages = settle(events, INFLATE if operation == "inflate" else DEFLATE)
    actual = guest.actual_pages(guest.listener.n_held)
    unfinished = operation == "deflate" and actual > 0
    if moved == 0 or unfinished or actual != guest.listener.n_held or pages.size < moved:
        raise GuestError(
            f"the guest's balloon holds {actual} pages after this {operation}, but "
            f"{guest.listener.n_held} by what its device saw, {pages.size} of them moved now; a "
            "QEMU built without the log trace backend traces nothing"
        )
    pages = guest.in_address_map(pages)
    try:
        check_in_ram(pages, memory_pages)
    except ValueError as error:
        raise GuestError(f"the guest's memory is not laid out as balloonlab's: {error}") from None
    row = {
        "target_pages": target,
        "n_moved": int(events.pfns.size - pages.size),
        "buddyinfo_before": before,
        "buddyinfo_after": guest.wire.buddyinfo(),
    }
    return row, pages


def _percent(report: Report, text: str) -> Callable[[float], None]:
    """Report a share in whole percent, each once."""
    last = -1

    def show(share: float) -> None:
        nonlocal last
        if int(100 * share) != last:
            last = int(100 * share)
            report(f"{text} {last} %")

    return show
