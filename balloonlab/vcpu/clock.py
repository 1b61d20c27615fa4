"""The clock inside a virtual processor: the time stamp counter, calibrated from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..kernels import vcpu as kernels
from ..kernels.tsc import Tsc

if TYPE_CHECKING:
    from .processor import Vcpu

SAMPLES = 100
LEAST_NS = 10_000_000
"""Between the first sample and the one that a rate is taken from."""


class Clock:
    """A `Tsc` that shows what CLOCK_MONOTONIC does, and how far it may be off.

    `tsc` is off by up to `error_ns` at the moment of its calibration, the durations it shows by up
    to `error_ppb`, parts in 10**9.
    """

    def __init__(self) -> None:
        self.tsc = Tsc(np.zeros(2, np.int64), np.ones(1))
        self.error_ns = self.error_ppb = 0
        self._cell = np.zeros(2, np.int64)
        self._first = self._sample()

    def calibrate(self, vcpu: Vcpu) -> None:
        """Set rate and origin anew."""
        ticks, ns, width = self._sample()
        while ns - self._first[1] < LEAST_NS:
            ticks, ns, width = self._sample()
        elapsed_ns = ns - self._first[1]
        rate = elapsed_ns / (ticks - self._first[0])
        ahead, off = self._ahead(vcpu)
        self.tsc.start[:] = ticks + ahead, ns
        self.tsc.ns_per_tick[0] = rate
        self.error_ns = -(-width // 2) + int(np.ceil(off * rate))
        self.error_ppb = (self._first[2] + width) * 10**9 // (2 * elapsed_ns) + 1

    def _sample(self) -> tuple[int, int, int]:
        sample = np.zeros(3, np.int64)
        kernels.sample_both(SAMPLES, sample, self._cell)
        return int(sample[0]), int(sample[1]), int(sample[2])

    def _ahead(self, vcpu: Vcpu) -> tuple[float, float]:
        """Return by how much the counter inside is ahead of that outside, and how far that is off.

        Both in ticks: 0 wherever that can be, as one that is set apart is so by much more than a
        call takes.
        """
        ticks, low, high = np.zeros(1, np.int64), -np.inf, np.inf
        for _ in range(10):
            before = self._sample_outside()
            vcpu.call(kernels.sample_tsc, ticks)
            after = self._sample_outside()
            low, high = max(low, ticks[0] - after), min(high, ticks[0] - before)
        if low <= 0 <= high:
            return 0.0, 0.0
        return (low + high) / 2, (high - low) / 2

    def _sample_outside(self) -> int:
        ticks = np.zeros(1, np.int64)
        kernels.sample_tsc(ticks)
        return int(ticks[0])
