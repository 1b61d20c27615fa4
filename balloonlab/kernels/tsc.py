"""The processor's time stamp counter: the clock of code that can make no system call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import kernel


class Tsc(NamedTuple):
    """A counter that was calibrated against CLOCK_MONOTONIC; in arrays, to be calibrated anew."""

    start: np.ndarray  # int64, shape (2,): a reading of the counter, and the ns of that moment
    ns_per_tick: np.ndarray  # float64, shape (1,)


@intrinsic
def read_tsc(typingctx: Any) -> Any:
    """Read the counter, as int64; only in compiled code."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ticks = cgutils.ir.FunctionType(cgutils.ir.IntType(64), [])
        function = cgutils.get_or_insert_function(builder.module, ticks, "llvm.readcyclecounter")
        return builder.call(function, [])

    return types.int64(), generate


@kernel
def tsc_ns(clock):
    """Return what CLOCK_MONOTONIC shows by a `Tsc`, in ns."""
    ticks = read_tsc() - clock.start[0]
    return clock.start[1] + np.int64(ticks * clock.ns_per_tick[0])
