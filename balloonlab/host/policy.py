"""How a host applies messages, and the policies of hosts that there are."""

from __future__ import annotations

import difflib
import mmap
import os
import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from ..kernels.discard import Act, Discard, Vectors
from ..kernels.syscalls import advise_vectors
from ..sizes import PAGE_BYTES
from ..wire import Feature
from .backing import VERBS

DISCARDS = {
    "page": Discard.PER_PAGE,
    "range": Discard.PER_RANGE,
    "sorted": Discard.SORTED,
    "vector": Discard.VECTOR,
    "sorted-vector": Discard.SORTED_VECTOR,
}
"""``page``: one call per page, as QEMU does. ``range``: neighbours in a message make one call.
``sorted``: a message's ranges are sorted, and all that adjoin make one call. ``vector`` and
``sorted-vector``: as these two, but many ranges in one call of ``process_madvise``."""

VECTORED = ("vector", "sorted-vector")
"""Discards that give many ranges to the kernel in one call."""

MOST_VECTORS = 1024
"""Ranges in such a call at most: Linux's ``UIO_MAXIOV``."""

MOST_THREADS = 64
"""Threads that discard at most."""

MOST_COLLECTED = 64
"""Messages that are collected at most before they are discarded."""


@dataclass(frozen=True)
class Policy:
    """How a device applies messages.

    By one of `DISCARDS`, with so many ranges a vectored call, by so many threads. The device
    answers as many messages as `collect` says before it discards them together: when it has
    that many, when no kick has come for a millisecond, before it answers a deflation, and
    before it stops. The `verb` is one of `balloonlab.host.backing.VERBS`, by default what frees
    this kind of memory.

    Examples
    --------
    >>> Policy("vector").vectors
    1024
    """

    discard: str = "range"
    vectors: int = MOST_VECTORS
    threads: int = 1
    collect: int = 1
    verb: str | None = None

    def __post_init__(self) -> None:
        if self.discard not in DISCARDS:
            rule = f"discard must be one of {', '.join(DISCARDS)}"
            raise ValueError(f"{rule}, got {self.discard!r}")
        if not 1 <= self.vectors <= MOST_VECTORS:
            raise ValueError(f"vectors must be 1 to {MOST_VECTORS}, got {self.vectors}")
        if not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads must be 1 to {MOST_THREADS}, got {self.threads}")
        if not 1 <= self.collect <= MOST_COLLECTED:
            raise ValueError(f"collect must be 1 to {MOST_COLLECTED}, got {self.collect}")

    def check_features(self, accepted: Feature) -> None:
        """Refuse to collect messages of a driver that may use pages before it told (ValueError)."""
        if self.collect > 1 and Feature.MUST_TELL_HOST not in accepted:
            raise ValueError(
                f"collect must be 1 for a driver without MUST_TELL_HOST, got {self.collect}: it "
                "may use a page again before the host has discarded it"
            )

    def make_vectors(self, n_extents: int, page_bytes: int = PAGE_BYTES) -> Vectors:
        """Return what a device of this policy sorts and calls with, over pages of that size."""
        vectored, huge = self.discard in VECTORED, page_bytes > PAGE_BYTES
        sorts = huge or self.discard in ("sorted", "sorted-vector")
        return Vectors(
            _pidfd(os.getpid()) if vectored else -1,
            np.full((self.vectors if vectored else 0, 2), -1, np.int64),
            np.full((n_extents if sorts else 0, 2), -1, np.int64),
            np.full((n_extents if huge else 0, 2), -1, np.int64),
        )


@cache
def _pidfd(pid: int) -> int:
    """Open a descriptor of this process, once; a forked one opens its own."""
    return os.pidfd_open(pid)


@cache
def check_vectored(verb: str = "dontneed", pid: int = 0) -> None:
    """Try a vectored call on a page of our own; a NotImplementedError where the kernel refuses.

    The `verb` is one of `balloonlab.host.backing.VERBS`; a ValueError where it is no advice.
    """
    call = VERBS[verb]
    if call.act != Act.ADVISE:
        raise ValueError(
            f"verb must be a madvise with discard='vector', got {verb!r}: process_madvise makes no "
            f"call of {call.name}"
        )
    advice, shared = call.advice, verb == "remove"
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    with mmap.mmap(-1, PAGE_BYTES, flags=flags | mmap.MAP_ANONYMOUS) as mapping:
        mapping[0] = 1
        page = np.frombuffer(mapping, np.uint8)
        iovecs = np.array([[page.ctypes.data, PAGE_BYTES]], np.int64)
        done = advise_vectors(_pidfd(pid or os.getpid()), iovecs, 1, advice)
        freed = page[0] == 0 or verb == "free"  # in its own time
        del page
    if done != PAGE_BYTES or not freed:
        raise NotImplementedError(
            f"discard='vector' needs process_madvise(2) for {call.name} on one's own process "
            f"(Linux 6.13 or later), which Linux {platform.release()} refuses: use 'range' or "
            "'sorted'"
        )


POLICIES = {
    "qemu": (Policy("page"), "QEMU", "each page is looked up, and discarded by itself"),
    "cloud-hypervisor": (
        Policy("page"), "Cloud Hypervisor", "the same; of a shared file a hole is punched besides",
    ),
    "crosvm": (Policy("range"), "crosvm", "pages that follow each other in a message are joined"),
    "firecracker": (
        Policy("sorted"), "Firecracker", "pages are sorted, repeated ones dropped, neighbours "
        "joined; it gathers up to 2048 that wait, but Linux's driver waits for each message",
    ),
    "vectored": (
        Policy("vector", 256), "nobody", "neighbours joined, the ranges of a message in one call",
    ),
    "collected": (
        Policy("sorted-vector", collect=32), "nobody", "32 messages together, sorted, in one call",
    ),
    "collected-by-two": (
        Policy("sorted-vector", collect=32, threads=2), "nobody", "the same by two threads",
    ),
}  # fmt: skip
"""What hosts do with the legacy message: the policy, who does it, and what it is."""


def host_policies() -> pd.DataFrame:
    """Return what hosts do with the legacy message, and what they could do without a new guest.

    Returns
    -------
    pandas.DataFrame
        By ``name``: ``discard``, ``threads`` and ``collect`` as `balloonlab.measure` takes them,
        ``used_by``, ``what`` it is.

    Examples
    --------
    >>> host_policies().loc["firecracker", "discard"]
    'sorted'
    """
    rows = {
        name: host_policy(name) | {"used_by": who, "what": what}
        for name, (_, who, what) in POLICIES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def host_policy(name: str) -> dict[str, Any]:
    """Return a host's policy as options of `balloonlab.measure`.

    Parameters
    ----------
    name : str
        One of `host_policies`; a ValueError names the nearest one.

    Examples
    --------
    >>> import balloonlab as bl
    >>> options = host_policy("crosvm")
    >>> options
    {'discard': 'range', 'threads': 1, 'collect': 1}
    >>> run = bl.measure(memory="8MiB", protocol="pfn", repeats=1, progress=False, **options)
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(str(name), POLICIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name must be one of {', '.join(POLICIES)}, got {name!r}{hint}")
    policy = POLICIES[name][0]
    return {"discard": policy.discard, "threads": policy.threads, "collect": policy.collect}
