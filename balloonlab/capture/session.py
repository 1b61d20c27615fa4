"""What happens in a booted guest: its state, its balloon, and the record of both."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..measurement.provenance import commit
from ..pages import check_in_ram
from ..sizes import PAGE_BYTES, format_size
from .booted import BootedGuest
from .errors import CaptureError
from .planning import Planned
from .states import STATES, available_target
from .trace_events import DEFLATE, INFLATE, settle

STALLED_S = 15.0
"""Seconds without a page after which the guest has no more; its driver tries again every 0.2 s."""

Report = Callable[[str], None]


class Captured(NamedTuple):
    """The result of a capture."""

    guest: dict[str, Any]  # how it was made: kernel, workload, buddyinfo and so on
    pages: dict[str, npt.NDArray[np.uint64]]  # of each operation, by the name of its trace


def describe(wanted: Planned, guest: BootedGuest) -> dict[str, Any]:
    """Return the facts about the guest."""
    qemu = guest.monitor.command("query-version")
    return {
        "name": wanted.name,
        "state": wanted.state,
        "description": STATES[wanted.state].text,
        "memory_bytes": wanted.memory_bytes,
        "share": wanted.share,
        "seed": wanted.seed,
        "kernel": guest.read("/proc/version").strip(),
        "command_line": guest.read("/proc/cmdline").strip(),
        "qemu": "{qemu[major]}.{qemu[minor]}.{qemu[micro]} {package}".format(**qemu).strip(),
        "cpus": 1,
        "utc_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "balloonlab": version("balloonlab"),
        "commit": commit(),
        "accelerator": guest.accelerator,
    }


def run_session(wanted: Planned, guest: BootedGuest, report: Report) -> Captured:
    """Bring the guest into its state, and move the balloon."""
    state = STATES[wanted.state]
    available = guest.available_bytes()
    at_boot = _buddyinfo(guest)
    workload = [f"seed {wanted.seed}", *state.commands(wanted.memory_bytes, available)]
    for command in workload:
        guest.run(command, _percent(report, f"{wanted.name}: {command.split()[0]}"))
    thp = guest.read("/sys/kernel/mm/transparent_hugepage/enabled")
    left = guest.available_bytes()
    target = available_target(guest.memory_pages, wanted.share, left)
    if target == 0:
        raise CaptureError(f"the guest has only {format_size(left)} available: no balloon fits")
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
        "thp": thp.partition("[")[2].partition("]")[0],
        "available_bytes": {"at_boot": available, "before": left},
        "workload": workload,
        "buddyinfo_at_boot": at_boot,
        "traces": rows,
    }
    return Captured(facts, pages)


def _move(
    guest: BootedGuest, operation: str, target: int, show: Callable[[float], None]
) -> tuple[dict[str, Any], npt.NDArray[np.uint64]]:
    """Inflate to `target` pages, or as far as the guest can, or deflate to none."""
    memory_pages = guest.memory_pages
    before = _buddyinfo(guest)
    start, held = guest.listener.n_events, guest.listener.n_held
    guest.set_balloon(target, STALLED_S, show)
    if target and (reached := guest.listener.n_held) != target:
        guest.set_balloon(reached, STALLED_S)  # the guest has no more: have it stop trying
    moved = abs(guest.listener.n_held - held)
    events = guest.listener.since(start)
    pages = settle(events, INFLATE if operation == "inflate" else DEFLATE)
    actual = memory_pages - _guest_pages(guest, memory_pages - guest.listener.n_held)
    unfinished = operation == "deflate" and actual > 0
    if moved == 0 or unfinished or actual != guest.listener.n_held or pages.size < moved:
        raise CaptureError(
            f"the guest's balloon holds {actual} pages after this {operation}, but "
            f"{guest.listener.n_held} by what QEMU traced, {pages.size} of them moved now; a QEMU "
            "built without the log trace backend traces nothing"
        )
    try:
        check_in_ram(pages, memory_pages)
    except ValueError as error:
        raise CaptureError(f"the guest's memory is not laid out as balloonlab's: {error}") from None
    row = {
        "target_pages": target,
        "n_moved": int(events.pfns.size - pages.size),
        "buddyinfo_before": before,
        "buddyinfo_after": _buddyinfo(guest),
    }
    return row, pages


def _guest_pages(guest: BootedGuest, expected: int) -> int:
    """Ask the device for the memory outside the balloon, which the driver updates last."""
    for _ in range(100):
        pages = guest.monitor.command("query-balloon")["actual"] // PAGE_BYTES
        if pages == expected:
            break
        guest.read("/proc/uptime")  # a round trip through the guest, whose turn it then is
    return pages


def _percent(report: Report, text: str) -> Callable[[float], None]:
    """Report a share in whole percent, each once."""
    last = -1

    def show(share: float) -> None:
        nonlocal last
        if int(100 * share) != last:
            last = int(100 * share)
            report(f"{text} {last} %")

    return show


def _buddyinfo(guest: BootedGuest) -> dict[str, list[int]]:
    """Read the guest's free blocks of order 0, 1 and so on, by zone."""
    lines = guest.read("/proc/buddyinfo")
    found = re.findall(r"zone\s+(\w+)\s+([\d ]+)", lines)
    return {zone: [int(count) for count in counts.split()] for zone, counts in found}
