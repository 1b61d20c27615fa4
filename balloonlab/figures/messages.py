"""What a message says and does: its records, its discards, and how many there are of each.

Records are read out of the buffers that `balloonlab.wire.encode` gives, discards come
from the kernel that the host device runs: neither is drawn from knowledge of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..host.device import EXTENTS
from ..kernels import faults
from ..kernels import memory as kernels
from ..layout import HIGH_RAM_START, LOW_RAM_END
from ..wire.format import Buffer

_APART = 1 << 50
_SLOTS = np.array(
    [
        (0, LOW_RAM_END, 0, 1),
        (LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, _APART, 1),
        (HIGH_RAM_START, 1 << 49, LOW_RAM_END, 1),
    ],
    np.int64,
)
"""A guest's memory map as in `balloonlab.host.GuestRam`: across the hole RAM is in one piece.

Pages in the hole are taken for RAM here, apart from all other, so that any can be drawn.
"""


def records(stream: Iterable[Buffer]) -> pd.DataFrame:
    """Read the records out of ``bitmap-v4`` buffers, in wire order.

    Parameters
    ----------
    stream : iterable of bytes-like
        Buffers as ``balloonlab.wire.encode(pfns, "bitmap-v4")`` gives them.

    Returns
    -------
    pandas.DataFrame
        One row a record, numbered from 1 on. ``kick``: which buffer, from 1 on;
        ``kind``: ``word`` (head and bitmap) or ``block`` (head only);
        ``start_pfn``; ``span_pages``: pages from there on that the record is about;
        ``n_pages``: how many of them it tells; ``wire_bytes``: head and bitmap;
        ``bitmap``: its bits, least significant first, as the bytes on the wire.

    Raises
    ------
    ValueError
        A buffer is not ``bitmap-v4``, as `balloonlab.wire.decode`.
    """
    stream = list(stream)
    wire.decode(stream, "bitmap-v4")  # checks every head, so that the walk below may trust it
    rows = []
    for kick, buffer in enumerate(map(bytes, stream), start=1):
        at, end = 8, 8 + int.from_bytes(buffer[4:8], "little")
        while at < end:
            # The head: start_pfn in bits 0-51, page_shift 52-57, bmap_len 58-63 (patch 2/7).
            head = int.from_bytes(buffer[at : at + 8], "little")
            start_pfn, page_shift, bmap_len = head & (1 << 52) - 1, head >> 52 & 63, head >> 58
            bitmap = buffer[at + 8 : at + 8 + bmap_len]
            span = 8 * bmap_len or 1 << page_shift - 12
            n_pages = int.from_bytes(bitmap, "little").bit_count() if bitmap else span
            kind = "word" if bitmap else "block"
            rows.append((kick, kind, start_pfn, span, n_pages, 8 + bmap_len, bitmap))
            at += 8 + bmap_len
    columns = ["kick", "kind", "start_pfn", "span_pages", "n_pages", "wire_bytes", "bitmap"]
    return pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="record"))


def discards(stream: Iterable[Buffer], protocol: str) -> npt.NDArray[np.void]:
    """Tell which ``madvise`` calls the host device makes for a message.

    Runs the device's own kernel (`balloonlab.kernels.memory.translate`) on a memory map
    without memory behind it: nothing is discarded.

    Parameters
    ----------
    stream : iterable of bytes-like
        Buffers as `balloonlab.wire.encode` gives them.
    protocol : str
        One of `balloonlab.wire.formats`. How the host applies it is the format's
        default: page by page for ``pfn``, by range for ``bitmap-v4``.

    Returns
    -------
    structured array of `balloonlab.wire.RANGE`
        The first page and the pages of each call, in the order of the calls. A call
        that reaches over the hole between 3 and 4 GiB goes on at 4 GiB.

    Raises
    ------
    ValueError
        As `balloonlab.wire.decode`, or a page is beyond 2**49.
    """
    by_page = wire.get(protocol).discard == "page"
    guest = kernels.Memory(np.zeros(0, np.uint8), 0, _SLOTS)
    extents = np.zeros((EXTENTS, 2), np.int64)
    calls = [np.zeros((0, 2), np.int64)]
    fault = faults.no_faults()
    for buffer in stream:
        ranges = wire.decode([buffer], protocol).view(np.int64).reshape(-1, 2)
        position = np.zeros(3, np.int64)
        while n := kernels.translate(guest, ranges, position, by_page, extents, fault):
            calls.append(extents[:n] // kernels.PAGE_BYTES)
    if fault[faults.FIRST_KIND] >= 0:
        raise ValueError("stream must tell pages below 2**49 only: no host has memory for more")
    found = np.concatenate(calls)
    slot = np.select([found[:, 0] >= _APART, found[:, 0] >= LOW_RAM_END], [1, 2], 0)
    found[:, 0] += _SLOTS[slot, kernels.START] - _SLOTS[slot, kernels.FIRST_PAGE]
    return found.view(wire.RANGE)[:, 0]


def messages(pfns: npt.ArrayLike) -> pd.DataFrame:
    """Count what ``pfn`` and ``bitmap-v4`` make of the same pages: nothing is measured.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Pages in the order the guest allocates them.

    Returns
    -------
    pandas.DataFrame
        One row a format. ``kicks``: buffers; ``wire bytes``: all of them with their
        headers; ``records``: entries in them (a page number, a word or a block);
        ``ranges``: what the host decodes; ``madvise calls``: see `discards`.

    Raises
    ------
    TypeError, ValueError
        As `balloonlab.wire.encode`.
    """
    rows = {}
    for protocol in ("pfn", "bitmap-v4"):
        stream = wire.encode(pfns, protocol)
        wire_bytes = sum(map(len, stream))
        rows[protocol] = {
            "kicks": len(stream),
            "wire bytes": wire_bytes,
            "records": wire_bytes // 4 if protocol == "pfn" else len(records(stream)),
            "ranges": len(wire.decode(stream, protocol)),
            "madvise calls": len(discards(stream, protocol)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
