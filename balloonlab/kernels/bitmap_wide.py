"""``bitmap-v4-wide``: the seed's format with up to seven bitmap words behind a head.

The field bmap_len has six bits, so up to 56 bytes: the patch never sends more than 8. Words that
are full stand in blocks, as there; those between them share a head.
"""

from __future__ import annotations

from .bitmap import FULL, WORD, ZERO
from .bitmap_v4 import (
    PAGE_SHIFT_4K,
    RECORD_WORDS,
    RESERVED_WORDS,
    WORD_BYTES,
    make_head,
    put_blocks,
)
from .compile import kernel

MOST_WORDS = 7


@kernel
def fill_wide(words, first_pfn, state, area):
    """Write records until the area is due to be sent; as `bitmap_v4.fill_records`."""
    word, n, n_records = state["word"], 0, 0
    while word < words.size and n + RESERVED_WORDS <= RECORD_WORDS:
        if words[word] == ZERO:
            word += 1
            continue
        begin = word
        while word < words.size and words[word] == FULL:
            word += 1
        if word > begin:
            before = n
            n = put_blocks(area, n, first_pfn + begin * WORD, (word - begin) * WORD)
            n_records += n - before
            continue
        head = n
        n += 1
        while word < words.size and word < begin + MOST_WORDS:
            bits = words[word]
            if bits == ZERO:
                break
            if bits == FULL:
                break
            area[n] = bits
            n += 1
            word += 1
        size = WORD_BYTES * (word - begin)
        area[head] = make_head(first_pfn + begin * WORD, PAGE_SHIFT_4K, size)
        n_records += 1
    state["word"] = word
    state["n_records"] += n_records
    return n
