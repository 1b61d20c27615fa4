"""Every byte of guest memory: written as a known pattern, and compared with it."""

from __future__ import annotations

import numpy as np

from .bitmap import ONE, ZERO
from .compile import kernel
from .syscalls import now_ns
from .translate import PAGE_BYTES

PAGE_WORDS = PAGE_BYTES // 8
SIGNATURE = np.uint64(0x9E3779B97F4A7C15)  # wider than any page number: never cancelled to 0


@kernel
def fill(words, first_page, n_pages):
    """Write the pattern into pages: each word's number, its bits mixed; no word is 0."""
    for i in range(first_page * PAGE_WORDS, (first_page + n_pages) * PAGE_WORDS):
        words[i] = np.uint64(i) ^ SIGNATURE


@kernel
def compare(words, first_page, n_pages, ballooned, found):
    """Compare pages with what they must hold; add to the four numbers in `found` (int64).

    Those are: pages outside the balloon, words of theirs that changed; pages that were in it
    (bits of `ballooned`, uint64), words of theirs that are not 0. `words` is as `fill` left it.
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


@kernel
def touch(ram, first_page, n_pages):
    """Write each page's signature into its first word, so that the host must back it."""
    words = ram.view(np.uint64)
    for page in range(first_page, first_page + n_pages):
        words[page * PAGE_WORDS] = np.uint64(page) ^ SIGNATURE


@kernel
def touch_at(ram, offsets, clock):
    """Write a word at each offset (int64, bytes); return the ns it took, by `now_ns`'s `clock`."""
    words = ram.view(np.uint64)
    begin_ns = now_ns(clock)
    for i in range(offsets.size):
        words[offsets[i] // 8] = np.uint64(offsets[i]) ^ SIGNATURE
    return now_ns(clock) - begin_ns


@kernel
def read_back(ram, n_pages, ballooned, found):
    """Count what the pages of the balloon (a bitmap) hold: zero, their signature, anything else.

    Adds to the three numbers in `found` (int64). Reading a page that is not backed backs it.
    """
    words = ram.view(np.uint64)
    for page in range(n_pages):
        if (ballooned[page >> 6] >> np.uint64(page & 63)) & ONE != ZERO:
            held = words[page * PAGE_WORDS]
            if held == ZERO:
                found[0] += 1
            elif held == np.uint64(page) ^ SIGNATURE:
                found[1] += 1
            else:
                found[2] += 1


@kernel
def count_lost(ram, n_pages, ballooned):
    """Count the pages outside the balloon (a bitmap) whose signature is gone; read no others."""
    words = ram.view(np.uint64)
    lost = 0
    for page in range(n_pages):
        bit = ballooned[page >> 6] >> np.uint64(page & 63)
        expected = np.uint64(page) ^ SIGNATURE
        if bit & ONE == ZERO and words[page * PAGE_WORDS] != expected:
            lost += 1
    return lost
