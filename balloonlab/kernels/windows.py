"""Pages sorted by window: so many bitmaps stand for so many pages at a time."""

from __future__ import annotations

import numpy as np

from .compile import kernel


@kernel
def split_by_window(pages, first_pfn, window_pages, ends, out):
    """Sort pages by window, those of one window in list order.

    `pages` (uint64, none below `first_pfn`) go to `out`; `ends` (int64, one per window of
    `window_pages`, the first from `first_pfn` on) receives where each window's end in it. The
    posted driver walks its whole list once a window. Here the list is read twice whatever the
    memory size: once to count, once to move. In a kernel the second pass would move list entries
    and take no memory.
    """
    ends[:] = 0
    # Neighbours in the list mostly share a window: a division only where one is left.
    window = 0
    start = first_pfn
    for i in range(pages.size):
        pfn = np.int64(pages[i])
        if not start <= pfn < start + window_pages:
            window = (pfn - first_pfn) // window_pages
            start = first_pfn + window * window_pages
        ends[window] += 1
    total = 0
    for w in range(ends.size):
        n = ends[w]
        ends[w] = total
        total += n
    for i in range(pages.size):
        pfn = np.int64(pages[i])
        if not start <= pfn < start + window_pages:
            window = (pfn - first_pfn) // window_pages
            start = first_pfn + window * window_pages
        out[ends[window]] = pages[i]
        ends[window] += 1
