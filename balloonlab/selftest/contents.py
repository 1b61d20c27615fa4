"""``balloonlab verify``: what ballooning does to the contents of memory, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..address_map import check_sizes
from ..guest import Operation
from ..host import DISCARDS, BalloonDevice, GuestRam, Policy
from ..kernels import contents as kernels
from ..measurement.machine import machine
from ..measurement.options import check_number
from ..measurement.resources import check_available, check_facilities
from ..pages import Buddy, patterns
from ..sizes import PAGE_BYTES, Size
from ..terminal import Progress

STEP_PAGES = 16384

COUNTED = {
    "kept_bytes": PAGE_BYTES, "changed_bytes": 8, "ballooned_bytes": PAGE_BYTES, "nonzero_bytes": 8,
}  # fmt: skip
"""What `balloonlab.kernels.contents.compare` counts, in its order: pages or words, in bytes."""

MUST_BE_ZERO = ("changed_bytes", "nonzero_bytes")
"""Columns of `verify` that hold 0 while no byte is lost and none is left."""


POLICIES = {name: Policy(name) for name in DISCARDS} | {
    "vector, two threads": Policy("vector", vectors=9, threads=2),
    "sorted, collected": Policy("sorted", threads=2, collect=8),
}
"""What is tested of a device: every way to discard, threads and collected messages."""


def combinations() -> list[tuple[str, str]]:
    """Return every protocol that names each page once, with every one of `POLICIES`."""
    protocols = [name for name in wire.spoken() if wire.get(name).names_each_page_once]
    return list(product(protocols, POLICIES))


def verify(memory: Size = "8GiB", seed: int = 1, progress: bool = True) -> pd.DataFrame:
    """Fill a guest's RAM, balloon half of it at random, and compare every byte.

    Through every protocol and way to discard: no two words of RAM are alike, half of its pages are
    inflated and deflated again. After each operation pages that were never in the balloon must
    hold every byte, and the others read zero.

    Parameters
    ----------
    memory : int or str
        RAM of the guest.
    seed : int
        Of the pages' choice.
    progress : bool
        Show progress bars.

    Returns
    -------
    pandas.DataFrame
        One row for each protocol, discard and operation: ``memory_bytes``,
        ``kept_bytes`` outside the balloon and ``changed_bytes`` of them,
        ``ballooned_bytes`` and ``nonzero_bytes`` of those. Bytes count in words of 8.

    Raises
    ------
    ValueError, MemoryError, NotImplementedError
        As `balloonlab.measure`.
    RuntimeError
        The device refused what an honest driver sent, or other pages were sent.
    """
    check_facilities()
    check_number("seed", seed, 0)
    memory_pages, _ = check_sizes(memory, 0)
    if memory_pages < 2:
        raise ValueError(f"memory must be at least two 4 KiB pages, got {memory!r}")
    memory_bytes = memory_pages * PAGE_BYTES
    check_available(memory_bytes, touched=True)
    pages = patterns.random(memory, memory_pages // 2 * PAGE_BYTES, seed)
    ways = combinations()
    ram = GuestRam(memory_pages)
    rows = []
    columns = ["protocol", "discard", "operation", "memory_bytes", *COUNTED]
    with Progress(2 * len(ways), progress) as bar:
        for protocol, discard in ways:
            bar.describe(f"every byte: {protocol} by {discard}")
            for operation, found in _rounds(ram, pages, protocol, discard, bar):
                n_bytes = found * np.array(list(COUNTED.values()))
                rows.append([protocol, discard, operation, memory_bytes, *n_bytes])
                bar.advance()
    return pd.DataFrame(rows, columns=columns)


def _rounds(
    ram: GuestRam, pages: npt.NDArray[np.uint64], protocol: str, discard: str, bar: Progress
) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Fill, inflate, compare, deflate, compare."""
    words = ram.memory.ram.view(np.uint64)
    _by_step(ram, bar, "filling", partial(kernels.fill, words))
    ballooned = np.zeros(-(-ram.memory_pages // 64) * 64, bool)
    ballooned[ram.page_index(pages)] = True
    bits = np.packbits(ballooned, bitorder="little").view(np.uint64)
    with machine(ram, Buddy.holding(ram.memory_pages, pages), protocol, POLICIES[discard]) as both:
        for operation, target in (("inflate", pages.size), ("deflate", 0)):
            done = both.driver.set_target(target)
            _check_sent(pages, done, both.devices[operation])
            both.devices[operation].settle()
            found = np.zeros(4, np.int64)
            look = partial(kernels.compare, words, ballooned=bits, found=found)
            _by_step(ram, bar, "comparing", look)
            yield operation, found


def _check_sent(pages: npt.NDArray[np.uint64], done: Operation, device: BalloonDevice) -> None:
    bad, errors = device.faults(), device.n_discard_errors
    if bad or errors or not np.array_equal(np.sort(done.pages), np.sort(pages)):
        raise RuntimeError(
            f"the operation went wrong: bad records {bad}, {errors} madvise calls failed, "
            f"{done.pages.size} of {pages.size} pages sent; nothing is reported"
        )


def _by_step(ram: GuestRam, bar: Progress, text: str, work: Callable[[int, int], object]) -> None:
    """Go through RAM in steps, so that Ctrl-C is heard between them."""
    with bar.bytes(text, ram.memory_pages * PAGE_BYTES) as advance:
        for first in range(0, ram.memory_pages, STEP_PAGES):
            n_pages = min(STEP_PAGES, ram.memory_pages - first)
            work(first, n_pages)
            advance(n_pages * PAGE_BYTES)
