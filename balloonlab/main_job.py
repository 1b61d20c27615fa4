"""The main job: the headline of 2016 measured here, stored, and drawn."""

from __future__ import annotations

from typing import Any

from .figures import headline, save
from .measurement.on_lab import FLOOR
from .measurement.options import Guest, Host, PathLike, check_number
from .measurement.resources import available_bytes, largest_guest
from .measurement.runner import run_cases
from .measurement.setups import make_case
from .measurement.starts import current
from .measurement.store import FIGURE, check_out
from .qemu.protocols import PAGEBLOCK_ORDER
from .reproduction import Reproduction
from .reproduction.reproduction import PROTOCOLS
from .sizes import GIB, PAGE_BYTES, Size, format_size, parse_pages

DEFAULT_MEMORY = 8 * GIB


def reproduce(
    memory: Size | None = None,
    balloon: Size | None = None,
    repeats: int = 3,
    out: PathLike | None = None,
    progress: bool = True,
    host: Host = "lab",
    guest: Guest = "thread",
    linux: str | None = None,
    modules: str | None = None,
) -> Reproduction:
    """Measure the headline comparison on this machine.

    ``pfn`` with discard per page against ``bitmap-v4`` with discard per range, on memory that the
    host backs (touched) and does not (untouched), without huge pages, and one ``madvise`` over the
    same bytes as the floor; with ``guest="kvm"`` all of that in a virtual machine. In an unmodified
    QEMU, ``pfn`` against ``reporting``, today's path for
    ranges; by Linux's own driver ``pfn`` against ``hinting``, all of its free blocks of 4 MiB. Each
    case has one warm-up (of a small Linux guest) and `repeats` measured repeats.

    Parameters
    ----------
    memory : int or str, optional
        RAM of the guest; 8 GiB, or as much as fits where that is short.
    balloon : int or str, optional
        7/8 of the memory by default.
    repeats : int
        Measured repeats of each case.
    out : path-like, optional
        Folder for the tables and ``meta.json``, as in `balloonlab.measure`, and the figure as SVG
        and PNG. An unfinished run of the same arguments, machine and code goes on; any other is
        moved into a folder ``earlier-<time>`` beside.
    progress, host, guest, linux, modules
        As in `balloonlab.measure`.

    Returns
    -------
    Reproduction
        Errors are those of `balloonlab.measure`; the repeats so far are in `out`.
    """
    import matplotlib.pyplot as plt

    folder = None if out is None else check_out(out)
    check_number("repeats", repeats, 1)
    common: dict[str, Any] = {"guest": guest, "host": host, "repeats": int(repeats)}
    paths = {"linux": linux, "modules": modules}
    common |= {name: path for name, path in paths.items() if path is not None}
    source = make_case(**common).source
    memory_bytes, scaled = _choose_memory(memory)
    if balloon is None:
        unit = PAGE_BYTES << PAGEBLOCK_ORDER if source == "qemu" else PAGE_BYTES
        balloon = memory_bytes // PAGE_BYTES // 8 * 7 * PAGE_BYTES // unit * unit
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
    if folder is not None and current() is None:
        ax = headline(run.frame)
        save(ax, folder / FIGURE)
        plt.close(ax.get_figure(root=True))
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
