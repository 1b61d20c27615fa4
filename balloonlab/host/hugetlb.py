"""Huge pages that the kernel keeps apart (hugetlb): as many as a guest needs, and given back."""

from __future__ import annotations

from pathlib import Path

from ..sizes import HUGE_BYTES

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")

_added: list[int] = []
"""Pages by which `reserve` made the pool larger, call by call."""


def reserve(n_bytes: int) -> None:
    """Have so much in free huge pages, for root by making the pool larger.

    A MemoryError where there are too few, with what to do. `give_back` undoes it; a process that
    is killed leaves the pool as it is.
    """
    needed = -(-n_bytes // HUGE_BYTES)
    try:
        free = _read("free_hugepages") - _read("resv_hugepages")
        pool = _read("nr_hugepages")
    except OSError:
        raise MemoryError(
            f"backing='hugetlb' needs huge pages of 2 MiB, but this kernel has no {POOL}"
        ) from None
    lacking = max(0, needed - free)
    if lacking:
        try:
            _write(pool + lacking)
            got = _read("nr_hugepages") - pool
            why = "the kernel found no more free memory in pieces of 2 MiB"
        except OSError as error:
            got, why = 0, f"the pool cannot be made larger from here ({error.strerror})"
        if got < lacking:
            if got:
                _write(pool)
            raise MemoryError(
                f"backing='hugetlb' needs {needed} free huge pages of 2 MiB, {free} are, and "
                f"{why}: as root, echo {pool + lacking} > {POOL}/nr_hugepages, or choose a smaller "
                "memory="
            )
    _added.append(lacking)


def give_back() -> None:
    """Make the pool smaller by what the last `reserve` added.

    Pages that are still mapped leave it when they are unmapped.
    """
    if added := _added.pop():
        _write(max(0, _read("nr_hugepages") - added))


def _read(name: str) -> int:
    return int((POOL / name).read_text())


def _write(n_pages: int) -> None:
    (POOL / "nr_hugepages").write_text(f"{n_pages}\n")
