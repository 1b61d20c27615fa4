"""The legacy format on the wire: little-endian 32-bit page numbers, so many per buffer."""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .faults import BUFFER_LENGTH, record_fault

PFNS_PER_BUFFER = 256  # of Linux


@kernel
def write_pfns(pfns, area):
    """Write a batch of page numbers into the buffer; the caller refuses those beyond 32 bits."""
    for i in range(pfns.size):
        area[i] = np.uint32(pfns[i])


@kernel
def decode_pfns(words, n_bytes, ranges, faults):
    """Turn one buffer into ranges of one page each; as `bitmap_v4.decode_records`."""
    n = n_bytes // 4
    for i in range(n):
        word = words[i >> 1]
        if i & 1:
            word >>= np.uint64(32)
        ranges[i, 0] = np.int64(word & np.uint64(0xFFFFFFFF))
        ranges[i, 1] = 1
    if n_bytes % 4 != 0:
        record_fault(faults, BUFFER_LENGTH, 4 * n)
    return n
