"""A format of one's own in the driver and the device: compiled functions, called by address.

The number of its `Encoding` and `Decoding` is the address, far above those of all others. So the
kernels that are cached know nothing of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from .compile import kernel
from .faults import OWN_RULES, RECORD_RANGE, record_fault

FIRST_ADDRESS = 1 << 16
"""No function lies below."""

MOST_PAGES = 1 << 52
GO_ON = 4
"""Numbers that an encoder keeps between its messages."""

if config.DISABLE_JIT:

    def _call(address: int, *arguments: int) -> int:
        raise NotImplementedError("a format of one's own is measured by compiled code alone")

else:
    from llvmlite import ir

    @intrinsic
    def _call(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        """Call the function at an address with six int64; return its int64."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number = ir.IntType(64)
            function = ir.FunctionType(number, [number] * 6)
            return builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])

        return types.int64(*[types.int64] * 7), generate


@kernel
def encode_own(address, words, first_pfn, own, area):
    """Have a bitmap encoded until the area is full; return its words, 0 at the end."""
    n = _call(
        address, words.ctypes.data, words.size, first_pfn,
        own.ctypes.data, area.ctypes.data, area.size,
    )  # fmt: skip
    return min(max(n, 0), area.size)


@kernel
def decode_own(address, words, n_bytes, ranges, faults):
    """Have a message decoded, and trust nothing; as `bitmap_v4.decode_records`."""
    n = _call(address, words.ctypes.data, n_bytes, ranges.ctypes.data, ranges.shape[0], 0, 0)
    if n < 0:
        record_fault(faults, OWN_RULES, 0)
    kept = 0
    for i in range(min(n, ranges.shape[0])):
        first, n_pages = ranges[i, 0], ranges[i, 1]
        if 0 <= first < MOST_PAGES and 0 < n_pages <= MOST_PAGES - first:
            ranges[kept, 0] = first
            ranges[kept, 1] = n_pages
            kept += 1
        else:
            record_fault(faults, RECORD_RANGE, np.int64(i))
    return kept
