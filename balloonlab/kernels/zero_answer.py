"""The device's answer to a deflation: which of the pages are zero already, as a bitmap."""

from __future__ import annotations

from .bitmap import ONE, WORD, ZERO
from .compile import kernel
from .intrinsics import clear_lowest, trailing_zeros
from .translate import PAGE_BYTES


@kernel
def answer_zero(asked, zero, answer):
    """Make the device's answer: what is `asked` for and known to be `zero`; all uint64 bitmaps.

    Return the number of words that are not 0, as those are sent.
    """
    n = 0
    for i in range(asked.size):
        answer[i] = asked[i] & zero[i]
        n += 1 if answer[i] != ZERO else 0
    return n


@kernel
def clear_others(asked, answer, ram):
    """Clear the pages that are `asked` for, but those of the `answer`; return their number.

    What a guest does before it hands out a page that must be zero. `ram` is uint64, 512 a page.
    """
    n, page_words = 0, PAGE_BYTES // 8
    for i in range(asked.size):
        left = asked[i] & ~answer[i]
        while left != ZERO:
            first = (i * WORD + trailing_zeros(left)) * page_words
            left = clear_lowest(left)
            for k in range(page_words):
                ram[first + k] = ZERO
            n += 1
    return n


@kernel
def write_word(asked, ram):
    """Write a word to each page that is asked for, as the first use does; return their number."""
    n, page_words = 0, PAGE_BYTES // 8
    for i in range(asked.size):
        left = asked[i]
        while left != ZERO:
            ram[(i * WORD + trailing_zeros(left)) * page_words] = ONE
            left = clear_lowest(left)
            n += 1
    return n
