"""A second thread of the guest, which works while the balloon inflates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..host import GuestRam
from ..kernels import bystander as kernels
from ..queue import Worker
from ..sizes import PAGE_BYTES
from ..vcpu import Vcpu

IDLE_S = 0.3
"""How long it works alone, to be compared with."""

PHASES = ("alone", "inflating")
"""Names of the kernel's phases that are reported."""

QUANTILES = {"p50_ns": 0.5, "p99_ns": 0.99, "p999_ns": 0.999}


class Bystander:
    """Works on pages outside the balloon from entry to exit; as a thread, or in a `vcpu`.

    `offsets` are the pages, in bytes into RAM. The clock of a virtual processor is its own.
    """

    def __init__(self, ram: GuestRam, offsets: npt.NDArray[np.int64], vcpu: Vcpu | None) -> None:
        self._ram, self._offsets, self._vcpu = ram, offsets, vcpu
        self._control = np.zeros(1, np.int64)
        self._counts = np.zeros((kernels.STOP, kernels.N_BINS), np.int64)
        self._sums = np.zeros((kernels.STOP, 3), np.int64)
        self._before = self._words_sum()
        state = np.array([0x9E3779B97F4A7C15], np.uint64)
        clock = vcpu.clock.tsc if vcpu else np.zeros(2, np.int64)
        arguments = (state, self._control, self._counts, self._sums, clock)
        call = partial(kernels.work, ram.memory.ram, offsets, *arguments)
        if vcpu:
            vcpu.warm(kernels.work, np.empty(0, np.uint8), offsets, *arguments)
            call = partial(vcpu.call, kernels.work, ram.memory.ram, offsets, *arguments)
        self._worker = Worker(call, "balloon-bystander")

    def _words_sum(self) -> int:
        words = self._ram.memory.ram.view(np.uint64).reshape(-1, kernels.PAGE_WORDS)
        return int(words[self._offsets // PAGE_BYTES, 1:].sum())

    def __enter__(self) -> Self:
        try:
            self._worker.start()
            self._worker.wait_for(IDLE_S)
            self._control[0] = kernels.BETWEEN
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._control[0] = kernels.STOP
        self._worker.join()
        self._worker.result()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the steps within as those beside an inflation."""
        self._control[0] = kernels.INFLATING
        try:
            yield
        finally:
            self._control[0] = kernels.BETWEEN

    def phases(self) -> list[dict[str, Any]]:
        """Return steps and times alone, and beside the inflation; after the exit.

        A RuntimeError where its memory does not hold what it wrote.
        """
        n_written = int(self._sums[:, 0].sum()) * kernels.STEP_WORDS
        found = self._words_sum() - self._before
        if found != n_written:
            raise RuntimeError(
                f"memory outside the balloon lost its contents: {n_written} words were written, "
                f"{found} are there; nothing is reported"
            )
        n = len(PHASES)
        rows = zip(PHASES, self._sums[:n].tolist(), self._counts[:n], strict=True)
        return [
            {"phase": name, "n_steps": n, "time_ns": ns, **quantiles(counts), "max_ns": most}
            for name, (n, ns, most), counts in rows
        ]


def quantiles(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return quantiles of a histogram of the kernel's bins, each bin's middle; 0 where it is empty.

    Examples
    --------
    >>> counts = np.zeros(kernels.N_BINS, np.int64)
    >>> counts[[5, 200]] = 99, 1
    >>> quantiles(counts)["p50_ns"]
    5
    """
    total = counts.sum()
    if total == 0:
        return dict.fromkeys(QUANTILES, 0)
    at = np.searchsorted(np.cumsum(counts), np.ceil(np.array([*QUANTILES.values()]) * total))
    return {name: middle(int(i)) for name, i in zip(QUANTILES, at, strict=True)}


def middle(number: int) -> int:
    """Return the middle of a bin, in ns."""
    shift = max(0, number // kernels.PARTS - 1)
    low = (number - kernels.PARTS * shift) << shift
    return low + ((1 << shift) - 1) // 2
