"""What a message takes and does: kicks, bytes, records, and the host's discards, counted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..host.device import EXTENTS, no_balloon
from ..kernels import faults
from ..kernels import memory as kernels
from ..layout import HIGH_RAM_START, LOW_RAM_END
from ..wire.format import Buffer

MAX_PFN = 1 << 32
"""Pages up to here, 16 TiB: a bit each is kept to tell the repeated ones."""


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
        As `balloonlab.wire.decode`, or a page is beyond 2**32.
    """
    by_page = wire.get(protocol).discard == "page"
    decoded = [wire.decode([buffer], protocol) for buffer in stream]
    top = max((int((d["start_pfn"] + d["n_pages"]).max()) for d in decoded if d.size), default=0)
    if top > MAX_PFN:
        raise ValueError(f"stream must tell pages below 2**32 only, got one of {top - 1}")
    slots = _slots(max(top, HIGH_RAM_START))
    guest = kernels.Memory(np.zeros(0, np.uint8), 0, slots)
    balloon = no_balloon((top + HIGH_RAM_START) * kernels.PAGE_BYTES)
    extents = np.zeros((EXTENTS, 2), np.int64)
    calls = [np.zeros((0, 2), np.int64)]
    for ranges in decoded:
        position = np.zeros(4, np.int64)
        arguments = (ranges.view(np.int64).reshape(-1, 2), position, by_page, balloon, True)
        while position[0] < ranges.size:
            n = kernels.translate(guest, *arguments, extents, faults.no_faults())
            calls.append(extents[:n] // kernels.PAGE_BYTES)
    found = np.concatenate(calls)
    row = np.searchsorted(slots[:, kernels.FIRST_PAGE], found[:, 0], side="right") - 1
    found[:, 0] += slots[row, kernels.START] - slots[row, kernels.FIRST_PAGE]
    return found.view(wire.RANGE)[:, 0]


def _slots(top: int) -> npt.NDArray[np.int64]:
    """Map memory as `balloonlab.host.GuestRam` does: across the hole RAM is in one piece.

    Pages in the hole are taken for RAM here, behind all other, so that any can be told.
    """
    low = (0, LOW_RAM_END, 0, 1)
    high = (HIGH_RAM_START, top - HIGH_RAM_START, LOW_RAM_END, 1)
    hole = (LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, LOW_RAM_END + top - HIGH_RAM_START, 1)
    return np.array([low, high, hole], np.int64)


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
            "records": wire_bytes // 4 if protocol == "pfn" else len(wire.records(stream)),
            "ranges": len(wire.decode(stream, protocol)),
            "madvise calls": len(discards(stream, protocol)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
