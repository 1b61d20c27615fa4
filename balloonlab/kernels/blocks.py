"""Blocks of free pages, as reporting and hinting name them: a descriptor each."""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .faults import BLOCK_ALIGNMENT, record_fault

PAGE_SHIFT = 12


@kernel
def decode_blocks(words, n_bytes, ranges, faults):
    """Turn pairs of address and bytes (`balloonlab.kernels.vring.fetch_blocks`) into ranges.

    As `bitmap_v4.decode_records`; a fault's position is the pair's byte in the message.
    """
    n = 0
    within = np.uint64((1 << PAGE_SHIFT) - 1)
    for i in range(n_bytes // 16):
        gpa, length = words[2 * i], words[2 * i + 1]
        if length == np.uint64(0) or (gpa | length) & within != np.uint64(0):
            record_fault(faults, BLOCK_ALIGNMENT, 16 * i)
            continue
        ranges[n, 0] = np.int64(gpa >> np.uint64(PAGE_SHIFT))
        ranges[n, 1] = np.int64(length >> np.uint64(PAGE_SHIFT))
        n += 1
    return n
