"""The records of ``bitmap-v4`` as a table: what stands in a message, one row each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ..kernels.bitmap_v4 import HEADER_BYTES, PAGE_SHIFT_4K, split_head
from .bitmap_v4 import BITMAP_V4
from .format import Buffer, decode_buffers


def records(stream: Iterable[Buffer]) -> pd.DataFrame:
    """Read the records out of ``bitmap-v4`` buffers, in wire order.

    Parameters
    ----------
    stream : iterable of bytes-like
        Buffers as ``balloonlab.wire.encode(pfns, "bitmap-v4")`` gives them; for others a ValueError
        as of `balloonlab.wire.decode`.

    Returns
    -------
    pandas.DataFrame
        One row a record, numbered from 1 on. ``kick``: which buffer, from 1 on; ``kind``: ``word``
        (head and bitmap) or ``block`` (head only); ``start_pfn``; ``span_pages``: pages from there
        on that the record is about; ``n_pages``: how many of them it names; ``wire_bytes``: head
        and bitmap; ``bitmap``: its bits, least significant first, as the bytes on the wire.

    Examples
    --------
    >>> from balloonlab import wire
    >>> records(wire.encode(range(100, 500), "bitmap-v4"))["n_pages"].tolist()
    [28, 52, 256, 64]
    """
    stream = list(stream)
    decode_buffers(BITMAP_V4, stream)  # checks every head, so that the walk below may trust it
    rows = []
    for kick, buffer in enumerate(map(bytes, stream), start=1):
        at, end = HEADER_BYTES, HEADER_BYTES + int.from_bytes(buffer[4:8], "little")
        while at < end:
            head = np.uint64(int.from_bytes(buffer[at : at + 8], "little"))
            start_pfn, page_shift, bmap_len = split_head(head)
            bitmap = buffer[at + 8 : at + 8 + bmap_len]
            span = 8 * bmap_len or 1 << page_shift - PAGE_SHIFT_4K
            n_pages = int.from_bytes(bitmap, "little").bit_count() if bitmap else span
            kind = "word" if bitmap else "block"
            rows.append((kick, kind, start_pfn, span, n_pages, 8 + bmap_len, bitmap))
            at += 8 + bmap_len
    columns = ["kick", "kind", "start_pfn", "span_pages", "n_pages", "wire_bytes", "bitmap"]
    return pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="record"))
