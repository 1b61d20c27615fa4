"""The cases of the headline, and their measurement."""

from __future__ import annotations

from typing import Any

from ..measurement.floor import PROTOCOL as FLOOR
from ..measurement.options import Guest, Host, PathLike, check_number
from ..measurement.resources import available_bytes, largest_guest
from ..measurement.runner import run_cases
from ..measurement.setups import make_case
from ..measurement.store import check_out
from ..qemu.protocols import PAGEBLOCK_ORDER
from ..sizes import GIB, PAGE_BYTES, Size, format_size, parse_pages
from .reproduction import PROTOCOLS, Reproduction

DEFAULT_MEMORY = 8 * GIB


def measure_headline(
    memory: Size | None, balloon: Size | None, repeats: int, out: PathLike | None,
    progress: bool, host: Host, guest: Guest,
) -> Reproduction:  # fmt: skip
    """Measure the cases of the headline; see `balloonlab.reproduce`, which also draws them."""
    folder = None if out is None else check_out(out)
    check_number("repeats", repeats, 1)
    source = make_case(host=host, guest=guest).source
    memory_bytes, scaled = _choose_memory(memory)
    if balloon is None:
        unit = PAGE_BYTES << PAGEBLOCK_ORDER if source == "qemu" else PAGE_BYTES
        balloon = memory_bytes // PAGE_BYTES // 8 * 7 * PAGE_BYTES // unit * unit
    common: dict[str, Any] = {"guest": guest, "host": host, "repeats": int(repeats)}
    cases = [
        make_case(memory=memory_bytes, balloon=balloon, protocol=name, touched=touched, **common)
        for touched in (False, True)
        for name in PROTOCOLS[source]
        if touched or name != FLOOR
    ]
    sizes = {"memory_bytes": memory_bytes, "balloon_bytes": cases[0].balloon_bytes}
    run = run_cases(
        cases, "reproduce", common | sizes, out=folder, progress=progress, set_aside=True,
        scaled_down_from_bytes=DEFAULT_MEMORY if scaled else None,
    )  # fmt: skip
    return Reproduction(run.frame, run.meta, run.checks, folder)


def _choose_memory(memory: Size | None) -> tuple[int, bool]:
    """Return what the user asked for, else 8 GiB or the largest guest that fits."""
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
