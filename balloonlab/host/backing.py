"""What stands behind guest RAM, and what each way to take memory away does to it.

From the kernel's manual pages (``madvise(2)``, ``fallocate(2)``, ``mmap(2)``); that it does so is
checked after every repeat, and `balloonlab.frees` shows it for the kernel at hand.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..kernels.discard import Act, Verb
from ..kernels.syscalls import punch_hole
from ..sizes import HUGE_BYTES, MIB, PAGE_BYTES
from . import hugetlb

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Lets an untouched guest be larger than the host's memory (Python names it from 3.13 on)."""

ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
MADV_REMOVE = getattr(mmap, "MADV_REMOVE", 9)
MADV_FREE = getattr(mmap, "MADV_FREE", 8)

SNAPSHOT_BYTE = 0x5A
"""What the file of ``backing="file"`` is full of: neither zero nor what a guest writes."""


class Call(NamedTuple):
    """A system call that takes memory away."""

    act: Act
    advice: int
    name: str


VERBS = {
    "dontneed": Call(Act.ADVISE, mmap.MADV_DONTNEED, "madvise(MADV_DONTNEED)"),
    "free": Call(Act.ADVISE, MADV_FREE, "madvise(MADV_FREE)"),
    "remove": Call(Act.ADVISE, MADV_REMOVE, "madvise(MADV_REMOVE)"),
    "punch": Call(Act.PUNCH, 0, "fallocate(FALLOC_FL_PUNCH_HOLE)"),
    "map": Call(Act.MAP, 0, "mmap(MAP_FIXED) of anonymous memory"),
}
"""Calls by the name that users write."""


DONTNEED, WILLNEED = (
    Verb(int(Act.ADVISE), advice, -1, 0, PAGE_BYTES)
    for advice in (mmap.MADV_DONTNEED, mmap.MADV_WILLNEED)
)


class Effect(NamedTuple):
    """What a call does to a page that the guest wrote."""

    frees: bool  # the host has its memory back when the call returns
    reads: str  # what the page holds then: zero, old (what it held), file, either zero or old


class Backing(NamedTuple):
    """What stands behind guest RAM, and what each call does to it, or why it is not made."""

    flags: int  # of mmap(2)
    verbs: Mapping[str, Effect | str]  # the default first
    open: Callable[[int], int] = lambda n_bytes: -1  # a file of so many bytes; -1 for none
    close: Callable[[int, int], None] = lambda file, n_bytes: os.close(file)
    page_bytes: int = PAGE_BYTES  # of the pages behind RAM
    no_thp: str = ""  # why transparent huge pages cannot be behind it

    def effect(self, verb: str) -> Effect:
        """Return what a call does; a ValueError says why it is not made."""
        found = self.verbs[verb]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    @property
    def usable(self) -> tuple[str, ...]:
        """Calls that are made, the default first."""
        return tuple(name for name, found in self.verbs.items() if isinstance(found, Effect))


def _memfd(n_bytes: int) -> int:
    return _sized(os.memfd_create("balloonlab-guest"), n_bytes)


def _hugetlb(n_bytes: int) -> int:
    hugetlb.reserve(n_bytes)
    try:
        return _sized(os.memfd_create("balloonlab-guest", os.MFD_HUGETLB), n_bytes)
    except BaseException:
        hugetlb.give_back()
        raise


def _close_hugetlb(file: int, n_bytes: int) -> None:
    """Empty the file, which may still be mapped: the pool must not shrink by others' pages."""
    punch_hole(file, 0, n_bytes)
    os.close(file)
    hugetlb.give_back()


def _sized(file: int, n_bytes: int) -> int:
    try:
        os.ftruncate(file, n_bytes)
    except BaseException:
        os.close(file)
        raise
    return file


def _snapshot(n_bytes: int) -> int:
    """Write a file as a snapshot of a guest is: full, and on disk."""
    with tempfile.TemporaryFile(prefix="balloonlab-snapshot-") as file:
        piece = bytes([SNAPSHOT_BYTE]) * MIB
        for done in range(0, n_bytes, MIB):
            file.write(piece[: n_bytes - done])
        file.flush()
        return os.dup(file.fileno())


_NO_FREE = "MADV_FREE is of private anonymous memory alone"
_FREES = Effect(frees=True, reads="zero")
_OF_SHARED: dict[str, Effect | str] = {
    "remove": _FREES,
    "punch": _FREES,
    "dontneed": Effect(frees=False, reads="old"),  # the mapping goes, the file's pages stay
    "free": _NO_FREE,
    "map": Effect(frees=False, reads="zero"),  # the same
}

BACKINGS = {
    "anonymous": Backing(
        ANONYMOUS,
        {
            "dontneed": _FREES,
            "free": Effect(frees=False, reads="either"),
            "remove": "MADV_REMOVE makes a hole in a shared file, and there is none",
            "punch": "there is no file to make a hole in",
            "map": _FREES,
        },
        close=lambda file, n_bytes: None,
    ),
    "memfd": Backing(
        mmap.MAP_SHARED,
        _OF_SHARED,
        open=_memfd,
    ),
    "hugetlb": Backing(
        mmap.MAP_SHARED,
        _OF_SHARED,
        open=_hugetlb,
        close=_close_hugetlb,
        page_bytes=HUGE_BYTES,
        no_thp="its pages are huge as they are",
    ),
    "file": Backing(
        mmap.MAP_PRIVATE,
        {
            "dontneed": Effect(frees=True, reads="file"),
            "free": _NO_FREE,
            "remove": "MADV_REMOVE is of shared mappings, and this is a private one",
            "punch": "it is the snapshot's file, and what the guest wrote is not in it",
            "map": _FREES,
        },
        open=_snapshot,
        no_thp="the kernel puts no huge page into a private mapping of a file",
    ),
}
"""Backings by the name that users write."""
