"""``bitmap-v3``: a 32-byte header and the raw bitmap behind it.

From the patch series' third version: cmd, page_shift, flag and reserved (16 bits each), req_id,
start_pfn and bmap_len (bytes) of 64; then the bitmap, a bit per page from start_pfn on.
"""

from __future__ import annotations

import numpy as np

from .bitmap import WORD, ZERO, append_runs
from .compile import kernel
from .faults import BMAP_LEN, BUFFER_LENGTH, COMMAND, PAGE_SHIFT, RECORD_RANGE, record_fault

HEADER_WORDS = 4
PAGE_SHIFT_4K = 12
PFN_BITS = 52
PFN_LIMIT = 1 << PFN_BITS


@kernel
def fill_raw(words, first_pfn, state, area):
    """Write the header and the bitmap as far as the area has room; return its words, 0 at the end.

    From the next word that is not empty to the last one; as `bitmap_v4.fill_records` else.
    """
    word = state["word"]
    while word < words.size and words[word] == ZERO:
        word += 1
    n = min(words.size - word, area.size - HEADER_WORDS)
    while n > 0 and words[word + n - 1] == ZERO:
        n -= 1
    if n > 0:
        area[0] = np.uint64(PAGE_SHIFT_4K) << np.uint64(16)
        area[1] = ZERO
        area[2] = np.uint64(first_pfn + word * WORD)
        area[3] = np.uint64(8 * n)
        for i in range(n):
            area[HEADER_WORDS + i] = words[word + i]
        state["n_records"] += 1
    state["word"] = word + n if n > 0 else words.size
    return HEADER_WORDS + n if n > 0 else 0


@kernel
def decode_raw(words, n_bytes, ranges, faults):
    """Turn one buffer into ranges, trusting nothing; as `bitmap_v4.decode_records`."""
    if n_bytes < 8 * HEADER_WORDS:
        record_fault(faults, BUFFER_LENGTH, 0)
        return 0
    head, pfn, bmap_len = words[0], words[2], words[3]
    if head & np.uint64(0xFFFF) != ZERO:
        record_fault(faults, COMMAND, 0)
        return 0
    if (head >> np.uint64(16)) & np.uint64(0xFFFF) != np.uint64(PAGE_SHIFT_4K):
        record_fault(faults, PAGE_SHIFT, 0)
        return 0
    if bmap_len % np.uint64(8) != ZERO or bmap_len > np.uint64(n_bytes - 8 * HEADER_WORDS):
        record_fault(faults, BMAP_LEN, 24)
        return 0
    n_words = np.int64(bmap_len) // 8
    if (
        pfn >> np.uint64(PFN_BITS) != ZERO
        or np.int64(pfn) + n_words * WORD > np.int64(1) << PFN_BITS
    ):
        record_fault(faults, RECORD_RANGE, 16)
        return 0
    n = 0
    for i in range(n_words):
        n = append_runs(words[HEADER_WORDS + i], np.int64(pfn) + i * WORD, ranges, n, 0)
    return n
