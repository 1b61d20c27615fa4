"""Every byte of guest memory: written as a known pattern, and compared with it."""

from __future__ import annotations

import numpy as np

from .bitmap import ONE, ZERO
from .compile import kernel
from .memory import PAGE_BYTES, SIGNATURE

PAGE_WORDS = PAGE_BYTES // 8


@kernel
def fill(words, first_page, n_pages):
    """Write the pattern into pages: each word's number, its bits mixed; no word is 0."""
    for i in range(first_page * PAGE_WORDS, (first_page + n_pages) * PAGE_WORDS):
        words[i] = np.uint64(i) ^ SIGNATURE


@kernel
def compare(words, first_page, n_pages, ballooned, found):
    """Compare pages with what they must hold.

    Parameters
    ----------
    words : uint64 array
        Guest memory after `fill`.
    first_page, n_pages : int
    ballooned : uint64 array
        A bit a page, set for those that were in the balloon.
    found : int64 array, shape (4,)
        Added to: pages outside the balloon, words of theirs that changed; pages that
        were in it, words of theirs that are not 0.
    """
    for page in range(first_page, first_page + n_pages):
        inside = (ballooned[page >> 6] >> np.uint64(page & 63)) & ONE != ZERO
        wrong = 0
        for i in range(page * PAGE_WORDS, (page + 1) * PAGE_WORDS):
            expected = ZERO if inside else np.uint64(i) ^ SIGNATURE
            wrong += 1 if words[i] != expected else 0
        at = 2 if inside else 0
        found[at] += 1
        found[at + 1] += wrong
