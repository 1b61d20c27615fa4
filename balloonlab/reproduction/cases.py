"""The cases of the headline, and their measurement."""

from __future__ import annotations

import os

import pandas as pd

from ..measurement.case import DEFAULT_PROTOCOLS, Case, check_choice
from ..measurement.floor import PROTOCOL as FLOOR
from ..measurement.floor import floor
from ..measurement.hosts import describe_hosts, operate_once
from ..measurement.provenance import describe_machine
from ..measurement.resources import available_bytes, largest_guest
from ..measurement.runner import Repeat, Trial, check_facilities, count_steps, run_trials
from ..measurement.store import Store
from ..qemu.protocols import PAGEBLOCK_ORDER
from ..sizes import GIB, PAGE_BYTES, Size, format_size, parse_pages
from ..terminal import Progress
from .reproduction import PROTOCOLS, Reproduction

DEFAULT_MEMORY = 8 * GIB


def measure_headline(
    memory: Size | None = None,
    balloon: Size | None = None,
    repeats: int = 3,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    host: str = "lab",
) -> Reproduction:
    """Measure the cases of the headline; see `balloonlab.reproduce`, which also draws them."""
    check_choice("host", host, tuple(DEFAULT_PROTOCOLS))
    check_facilities(host)
    memory_bytes, scaled = _choose_memory(memory)
    if balloon is None:
        unit = PAGE_BYTES << PAGEBLOCK_ORDER if host == "qemu" else PAGE_BYTES
        balloon = memory_bytes // PAGE_BYTES // 8 * 7 * PAGE_BYTES // unit * unit
    plan = _plan(memory_bytes, balloon, repeats, host)
    meta = describe_machine() | describe_hosts([host])
    meta |= {
        "command": "reproduce",
        "arguments": {
            "host": host,
            "memory_bytes": memory_bytes,
            "balloon_bytes": plan[0].case.balloon_bytes,
            "repeats": repeats,
        },
        "scaled_down_from_bytes": DEFAULT_MEMORY if scaled else None,
        "finished": False,
        "checks": [],
    }
    store = Store(out) if out is not None else None
    if store:
        store.set_aside()
        store.write_meta(meta)
    done: list[Repeat] = []
    with Progress(count_steps(plan), progress) as bar:
        for repeat in run_trials(plan, bar):
            done.append(repeat)
            meta["checks"].append(repeat.check)
            if store:
                store.append(repeat.frame)
                store.write_meta(meta)
    meta["finished"] = True
    result = Reproduction(
        pd.concat([repeat.frame for repeat in done], ignore_index=True),
        meta,
        pd.DataFrame(meta["checks"]),
        store.folder if store else None,
    )
    if store:
        store.write_meta(meta)
    return result


def _plan(memory: Size, balloon: Size, repeats: int, host: str) -> list[Trial]:
    """List the trials: both protocols, untouched and touched, and in the lab the floor."""
    common = {"memory": memory, "balloon": balloon, "repeats": repeats, "host": host}
    cases = [
        Case.make(**common, protocol=protocol, touched=touched)
        for touched in (False, True)
        for protocol in PROTOCOLS[host][:2]
    ]
    floors = [floor(cases[-1])] if FLOOR in PROTOCOLS[host] else []
    return [*(Trial(case, operate_once) for case in cases), *floors]


def _choose_memory(memory: Size | None) -> tuple[int, bool]:
    """Take what the user asked for, else 8 GiB or the largest guest that fits."""
    if memory is not None:
        return parse_pages(memory, "memory") * PAGE_BYTES, False
    fits = largest_guest(touched=True, available=available_bytes())
    if fits >= DEFAULT_MEMORY:
        return DEFAULT_MEMORY, False
    if fits <= 0:
        raise MemoryError(
            f"only {format_size(available_bytes())} are available here: "
            "too little for any guest; free memory and try again"
        )
    return fits, True
