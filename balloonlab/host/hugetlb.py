"""Huge pages that the kernel keeps apart (hugetlb): as many as a guest needs, and given back."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..sizes import HUGE_BYTES

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")

_added: list[int] = []
"""Pages by which `reserve` made the pool larger, call by call."""


def reserve(n_bytes: int) -> None:
    """Have so much in huge pages of our own, for root by making the pool larger.

    By all of it, even where pages are free: another process may be about to touch those again.
    Where the pool cannot be changed free pages must do. A MemoryError where there are too few, with
    what to do. `give_back` undoes it; a process that is killed leaves the pool as it is.
    """
    needed = -(-n_bytes // HUGE_BYTES)
    if not POOL.exists():
        raise MemoryError(
            f"backing='hugetlb' needs huge pages of 2 MiB, but this kernel has no {POOL}"
        )
    with _locked():
        _added.append(_enlarge(needed))


def _enlarge(needed: int) -> int:
    """Make the pool larger; return by how many pages."""
    free = _read("free_hugepages") - _read("resv_hugepages")
    pool = _read("nr_hugepages")
    got, why = 0, "the kernel found no more free memory in pieces of 2 MiB"
    try:
        _write(pool + needed)
        got = _read("nr_hugepages") - pool
    except OSError as error:
        why = f"the pool cannot be made larger from here ({error.strerror})"
    if got < needed > free:
        if got:
            _write(pool)
        raise MemoryError(
            f"backing='hugetlb' needs {needed} huge pages of 2 MiB, {free} are free, and {why}: as "
            f"root, echo {pool + needed} > {POOL}/nr_hugepages, or choose a smaller memory="
        )
    return got


def give_back() -> None:
    """Make the pool smaller by what the last `reserve` added.

    Pages that are still mapped leave it when they are unmapped.
    """
    if added := _added.pop():
        with _locked():
            _write(max(0, _read("nr_hugepages") - added))


@contextmanager
def _locked() -> Iterator[None]:
    """Keep other processes of ours from changing the pool between a look at it and a change."""
    with (POOL / "nr_hugepages").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(name: str) -> int:
    return int((POOL / name).read_text())


def _write(n_pages: int) -> None:
    (POOL / "nr_hugepages").write_text(f"{n_pages}\n")
