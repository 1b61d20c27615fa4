"""What a page set takes on the wire: in every format, and in what no format here is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from math import ceil, log
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from .. import wire
from ..kernels import streams
from ..kernels.bitmap_v4 import RECORD_WORDS
from ..kernels.encode import BLOCKS_PER_KICK, DESCRIPTOR_BYTES
from ..kernels.formats import Encoding
from ..kernels.run_records import DESC_PAGES, Runs
from ..pages import metrics
from ..queue.virtqueue import QUEUE_SIZE
from ..wire.bitmap import pack_windows, split
from ..wire.registered import CODECS
from ..wire.run_records import runs_of

Pages = npt.NDArray[np.uint64]

REPORTED_PAGES = 512
"""Pages of the smallest block that free page reporting names (order 9)."""

HINTED_PAGES = 1024
"""Pages of the blocks that free page hinting names (order 10)."""

ROARING = "pyroaring"
"""Library of the reference ``roaring``; optional."""


class Counted(NamedTuple):
    """What a format takes for a page set."""

    n_named: int  # pages that it names at all
    n_kicks: float
    wire_bytes: float
    n_records: float
    n_ranges: float
    n_discards: float


def count(name: str, pages: Pages, memory_pages: int, order: str) -> Counted:
    """Count a page set in a format of `balloonlab.wire.formats` or of `REFERENCES`.

    Runs are taken off the list where `order` is ``list``, else off a bitmap.
    """
    if reference := REFERENCES.get(name):
        return reference(pages, memory_pages)
    stream, n_records = messages(name, pages, order)
    n_bytes, (n_ranges, n_discards) = sum(map(len, stream)), _applied(name, stream)
    return Counted(pages.size, len(stream), n_bytes, n_records or n_ranges, n_ranges, n_discards)


def _applied(name: str, stream: list[bytes]) -> tuple[int, int]:
    """Return the ranges of messages, and the calls when neighbours of a message make one."""
    n_ranges = n_discards = 0
    for message in stream:
        ranges = wire.decode([message], name).view(np.int64).reshape(-1, 2)
        n_ranges += len(ranges)
        n_discards += int(streams.count_joined(ranges))
    return n_ranges, n_discards


def messages(name: str, pages: Pages, order: str) -> tuple[list[bytes], int]:
    """Return the messages of a format, and their records; 0 where each is a range."""
    if name in CODECS or wire.get(name).encoding == Encoding.PFNS:
        return wire.encode(pages, name), 0
    if order == "list" and (kind := runs_of(wire.get(name))) is not None:
        return _listed(kind, pages), 0
    return split(pack_windows(pages), wire.get(name).encoding)


def _listed(kind: Runs, pages: Pages) -> list[bytes]:
    """Return the messages of runs taken off a list."""
    area, numbers = np.zeros(RECORD_WORDS, np.uint64), pages.view(np.int64)
    stream, at = list[bytes](), 0
    while at < pages.size:
        at, n_words = streams.encode_listed(int(kind), numbers, at, area)
        stream.append(area[:n_words].tobytes())
    return stream


def _scatter_gather(pages: Pages, memory_pages: int) -> Counted:
    ascending = np.sort(pages)
    bounds = np.concatenate([[-1], np.flatnonzero(np.diff(ascending) != 1), [pages.size - 1]])
    per_run = -(-np.diff(bounds) // DESC_PAGES) if pages.size else np.zeros(0, np.int64)
    n = int(per_run.sum())
    # A run is a call, and one more where a message ends within it.
    messages = np.arange(QUEUE_SIZE, n, QUEUE_SIZE)
    n_discards = per_run.size + np.setdiff1d(messages, np.cumsum(per_run)).size
    return Counted(pages.size, ceil(n / QUEUE_SIZE), DESCRIPTOR_BYTES * n, n, n, n_discards)


def _whole_blocks(pages: Pages, block_pages: int) -> npt.NDArray[np.uint64]:
    """Return the numbers of the aligned blocks of which every page is in the set."""
    blocks, n_pages = np.unique(pages // np.uint64(block_pages), return_counts=True)
    return blocks[n_pages == block_pages]


def _reported(pages: Pages, memory_pages: int) -> Counted:
    """Blocks of order 9 and 10, up to 32 descriptors a kick."""
    small = _whole_blocks(pages, REPORTED_PAGES)
    n_large = _whole_blocks(pages, HINTED_PAGES).size
    n = small.size - n_large  # a block of order 10 is one of them, not two
    kicks = ceil(n / BLOCKS_PER_KICK)
    return Counted(small.size * REPORTED_PAGES, kicks, DESCRIPTOR_BYTES * n, n, n, n)


def _hinted(pages: Pages, memory_pages: int) -> Counted:
    """Blocks of order 10, a kick each."""
    n = _whole_blocks(pages, HINTED_PAGES).size
    return Counted(n * HINTED_PAGES, n, DESCRIPTOR_BYTES * n, n, n, n)


def _roaring(pages: Pages, memory_pages: int) -> Counted:
    n_runs = int(metrics.run_lengths(pages)["n_runs"].sum())
    return Counted(pages.size, np.nan, len(roaring(pages)), np.nan, n_runs, np.nan)


def can_count(name: str) -> bool:
    """Whether the library that a reference is counted by is installed; others need none."""
    return name != "roaring" or find_spec(ROARING) is not None


def roaring(pages: Pages) -> bytes:
    """Serialize pages as a Roaring bitmap; ModuleNotFoundError without ``pyroaring``."""
    bitmap = import_module(ROARING).BitMap(pages.astype(np.uint32))
    bitmap.run_optimize()
    return bytes(bitmap.serialize())


def _bound(pages: Pages, memory_pages: int) -> Counted:
    """Count the sets of as many pages: no format is shorter than the logarithm on all of them."""
    n, of = pages.size, memory_pages
    bits = (gammaln(of + 1) - gammaln(n + 1) - gammaln(of - n + 1)) / log(2)
    return Counted(n, np.nan, ceil(bits / 8), np.nan, np.nan, np.nan)


REFERENCES: Mapping[str, Callable[[Pages, int], Counted]] = {
    "sg": _scatter_gather,
    "reporting": _reported,
    "hinting": _hinted,
    "roaring": _roaring,
    "bound": _bound,
}
"""What is counted beside the formats. ``sg``: runs as the queue's own descriptors of 16 bytes
(series v12 to v20). ``reporting`` and ``hinting``: whole free blocks alone, as Linux names them;
pages in none are not named. ``roaring``: a Roaring bitmap, which no driver sends. ``bound``: the
bytes that as many pages of that memory need if every set of them is as likely."""


def about(pages: Pages, memory_pages: int) -> dict[str, Any]:
    """Return where a set stands: its pages, its density and the mean length of its runs."""
    n_runs = int(metrics.run_lengths(pages)["n_runs"].sum())
    density, mean_run = pages.size / memory_pages, pages.size / max(1, n_runs)
    return {"n_pages": pages.size, "density": density, "mean_run_pages": mean_run}
