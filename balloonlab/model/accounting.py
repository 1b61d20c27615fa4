"""What a message takes and does: kicks, bytes, records, and the host's discards, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..address_map import HIGH_RAM_START, LOW_RAM_END
from ..host import Policy
from ..host.device import make_state, no_balloon
from ..kernels import translate as kernels
from ..kernels.bitmap_v4 import WINDOW_WORDS
from ..kernels.pfn import PFNS_PER_BUFFER
from ..pages import as_pfns, patterns
from ..sizes import Size, parse_pages
from ..wire.bitmap import pack_windows, split
from ..wire.format import Buffer
from ..wire.pfn import PFN32_LIMIT
from ..wire.registered import CODECS

MAX_PFN = 1 << 32
"""Pages up to here, 16 TiB: one bit each is kept to find repeated ones."""

COUNTS = ("n_pages", "n_kicks", "wire_bytes", "n_records", "n_translations", "n_discards")
"""What an operation takes besides time; columns of the tidy frame."""

WINDOW_PAGES = 64 * WINDOW_WORDS


def discards(stream: Iterable[Buffer], protocol: str) -> npt.NDArray[np.void]:
    """Return the ``madvise`` calls that the host device makes for a message.

    Runs the device's own kernel (`balloonlab.kernels.translate.translate`) on a memory map
    without memory behind it: nothing is discarded.

    Parameters
    ----------
    stream : iterable of bytes-like
        Buffers as `balloonlab.wire.encode` gives them, of pages below 2**32. Errors as
        `balloonlab.wire.decode`.
    protocol : str
        One of `balloonlab.wire.formats`, with the format's usual discard.

    Returns
    -------
    structured array of `balloonlab.wire.RANGE`
        The first page and the pages of each call, in the order of the calls. A call
        that reaches over the hole between 3 and 4 GiB goes on at 4 GiB.
    """
    return _carry_out(stream, protocol)[0]


def _carry_out(stream: Iterable[Buffer], protocol: str) -> tuple[npt.NDArray[np.void], int]:
    """Make the calls of `discards`, and count the lookups in the memory map."""
    # Ranges of a format that was registered are applied as those of bitmap-v4.
    wire_format = wire.get("bitmap-v4" if protocol in CODECS else protocol)
    decoded = [wire.decode([buffer], protocol) for buffer in stream]
    top = max((int((d["start_pfn"] + d["n_pages"]).max()) for d in decoded if d.size), default=0)
    if top > MAX_PFN:
        raise ValueError(f"stream must name pages below 2**32 only, got {top - 1}")
    # Memory as `balloonlab.host.GuestRam` maps it: across the hole RAM is in one piece. Pages in
    # the hole count as RAM here, behind all other, so that any page can be sent.
    end = max(top, HIGH_RAM_START)
    low, high = (0, LOW_RAM_END, 0, 1), (HIGH_RAM_START, end - HIGH_RAM_START, LOW_RAM_END, 1)
    n_hole = HIGH_RAM_START - LOW_RAM_END
    slots = np.array([low, high, (LOW_RAM_END, n_hole, end - n_hole, 1)], np.int64)
    guest = kernels.Memory(np.zeros(0, np.uint8), 0, slots)
    balloon = no_balloon((top + HIGH_RAM_START) * kernels.PAGE_BYTES)
    device = make_state(wire_format, Policy(wire_format.discard), "inflate", balloon)
    calls = [np.zeros((0, 2), np.int64)]
    n_translations = 0
    for ranges in decoded:
        device.state[:] = 0
        while device.state[0]["range"] < ranges.size:
            n = kernels.translate(guest, device, ranges.view(np.int64).reshape(-1, 2))
            calls.append(device.extents[:n] // kernels.PAGE_BYTES)
        n_translations += int(device.state[0]["n_lookups"])
    found = np.concatenate(calls)
    row = np.searchsorted(slots[:, kernels.FIRST_PAGE], found[:, 0], side="right") - 1
    found[:, 0] += slots[row, kernels.START] - slots[row, kernels.FIRST_PAGE]
    return found.view(wire.RANGE)[:, 0], n_translations


def messages(pfns: npt.ArrayLike, protocols: Iterable[str] = ("pfn", "bitmap-v4")) -> pd.DataFrame:
    """Count the messages of formats for the same pages: nothing is measured.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Pages in the order the guest allocates them. Errors as `balloonlab.wire.encode`.
    protocols : iterable of str
        Of `balloonlab.wire.formats`.

    Returns
    -------
    pandas.DataFrame
        One row per format. ``kicks``: buffers; ``wire bytes``: all of them with their
        headers; ``records``: entries in them (a page number, a word, a block, a run, a segment);
        ``ranges``: what the host decodes; ``madvise calls``: see `discards`.

    Examples
    --------
    >>> messages(range(100, 500))["wire bytes"].to_dict()
    {'pfn': 1600, 'bitmap-v4': 56}
    >>> messages(range(100, 500), ["range-v6", "adaptive"])["wire bytes"].to_dict()
    {'range-v6': 8, 'adaptive': 8}
    """
    rows, pages = {}, as_pfns(pfns)
    for protocol in protocols:
        stream = wire.encode(pages, protocol)
        ranges = wire.decode(stream, protocol)
        rows[protocol] = {
            "kicks": len(stream),
            "wire bytes": sum(map(len, stream)),
            "records": _count_records(pages, stream, protocol) or len(ranges),
            "ranges": len(ranges),
            "madvise calls": len(discards(stream, protocol)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _count_records(pages: npt.NDArray[np.uint64], stream: list[bytes], protocol: str) -> int:
    """Count the records of a format; 0 where each is a range."""
    if protocol == "pfn" or protocol in CODECS:
        return 0
    if protocol == "bitmap-v4-posted":
        return len(wire.records(stream))
    return split(pack_windows(pages), wire.get(protocol).encoding)[1]


def counts(pfns: npt.ArrayLike, protocol: str) -> dict[str, int]:
    """Count what a measurement of these pages would count, without making it.

    Parameters
    ----------
    pfns
        As in `messages`; so are the errors.
    protocol : {"pfn", "bitmap-v4"}
        With the format's usual discard.

    Returns
    -------
    dict of str to int
        `COUNTS`, as in the frame of `balloonlab.measure`.

    Examples
    --------
    >>> counts(range(100, 500), "bitmap-v4")["wire_bytes"]
    56
    """
    pages = as_pfns(pfns)
    windows = (_count_bitmap(first_pfn, words) for first_pfn, words in pack_windows(pages))
    return _count(protocol, pages.size, int(pages.max(initial=0)), windows)


def idle_counts(memory: Size, protocol: str, balloon: Size | None = None) -> dict[str, int]:
    """Return `counts` of `balloonlab.patterns.idle`, for guests too large to list their pages.

    Parameters
    ----------
    memory : int or str
        RAM of the guest, to tens of TiB and beyond; with ``pfn`` page numbers end at 32 bits.
    protocol : {"pfn", "bitmap-v4"}
        With the format's usual discard.
    balloon : int or str, optional
        7/8 of the memory by default; ValueError where it does not fit.

    Examples
    --------
    >>> idle_counts("64TiB", "bitmap-v4")["n_kicks"]
    1792
    """
    if balloon is None:
        balloon = parse_pages(memory, "memory") // 8 * 7 * kernels.PAGE_BYTES
    parts = sorted(part for part in patterns.idle_ranges(memory, balloon) if part.end > part.start)
    first, last = (parts[0].start & -64, parts[-1].end) if parts else (0, 0)

    def windows() -> Iterator[dict[str, int]]:
        for start in range(first, last, WINDOW_PAGES):
            end = start + WINDOW_PAGES
            inside = tuple(
                (max(part.start, start) - start, min(part.end, end) - start)
                for part in parts
                if part.start < end and part.end > start
            )
            # From 4 GiB on RAM is in one piece: it does not matter where in it a window stands.
            if inside:
                yield _count_window(min(start, HIGH_RAM_START), inside)

    n_pages = sum(part.end - part.start for part in parts)
    return _count(protocol, n_pages, last - 1, windows())


def _count(
    protocol: str, n_pages: int, highest: int, windows: Iterable[dict[str, int]]
) -> dict[str, int]:
    """Sum the counts of a bitmap's windows; with ``pfn`` all but the kicks is once per page."""
    if protocol == "bitmap-v4":
        found = Counter(dict.fromkeys(COUNTS, 0))
        for window in windows:
            found.update(window)
        return dict(found)
    if protocol != "pfn":
        raise ValueError(f"protocol must be pfn or bitmap-v4 to be counted, got {protocol!r}")
    if highest >= PFN32_LIMIT:
        raise ValueError(f"pfns must be below 2**32 in 'pfn', got {highest}: use 'bitmap-v4'")
    n_kicks = -(-n_pages // PFNS_PER_BUFFER)
    return dict.fromkeys(COUNTS, n_pages) | {"n_kicks": n_kicks, "wire_bytes": 4 * n_pages}


@cache
def _count_window(first_pfn: int, inside: tuple[tuple[int, int], ...]) -> dict[str, int]:
    """Count a window with these parts; most windows of an idle guest are equal."""
    bits = np.zeros(-(-inside[-1][1] // 64) * 64, bool)
    for start, end in inside:
        bits[start:end] = True
    return _count_bitmap(first_pfn, np.packbits(bits, bitorder="little").view("<u8"))


def _count_bitmap(first_pfn: int, words: npt.NDArray[np.uint64]) -> dict[str, int]:
    stream, n_records = split([(first_pfn, words)])
    calls, n_translations = _carry_out(stream, "bitmap-v4")
    n_pages, wire_bytes = int(calls["n_pages"].sum()), sum(map(len, stream))
    found = (n_pages, len(stream), wire_bytes, n_records, n_translations, len(calls))
    return dict(zip(COUNTS, found, strict=True))
