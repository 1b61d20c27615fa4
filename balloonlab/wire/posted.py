"""``bitmap-v4-posted``: the driver of the seed patch as it was posted, for study.

The message is that of ``bitmap-v4``; what differs is which pages it names, how often,
and whether the guest survives. Never use it for anything but that comparison.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..kernels import encode
from ..kernels import posted as kernels
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..kernels.formats import Encoding
from ..pages.checks import as_pfns
from .bitmap import pack_windows
from .bitmap_v4 import BITMAP_V4
from .format import decode_buffers, make_encoder


@dataclass(frozen=True)
class Fault:
    """Where the posted driver would have crashed its guest, or corrupted its memory.

    Attributes
    ----------
    what : str
        One of ``balloonlab.kernels.posted.FAULTS``.
    pfn, window, bitmap : int
        The page at hand, its window of the walk, which of that window's bitmaps.
    n_bitmaps, n_bitmaps_left, n_sends : int
        Bitmaps when the walk began, and when it went wrong; messages sent before.
    """

    what: str
    pfn: int
    window: int
    bitmap: int
    n_bitmaps: int
    n_bitmaps_left: int
    n_sends: int

    def __str__(self) -> str:
        return (
            f"{self.what} (page {self.pfn}, bitmap {self.bitmap} of window {self.window}, "
            f"{self.n_bitmaps_left} of {self.n_bitmaps} bitmaps left after {self.n_sends} sends)"
        )


class PostedDriverError(RuntimeError):
    """The posted driver went where a real guest reads freed memory or follows a NULL pointer."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"as posted, the guest crashes here: {fault}")


def fault_of(state: np.void) -> Fault | None:
    """Return the fault in a record of `balloonlab.kernels.posted.STATE`, None without one."""
    if state["fault"] == 0:
        return None
    limit = int(state["limit"])
    return Fault(
        what=kernels.FAULTS[int(state["fault"])],
        pfn=int(state["fault_pfn"]),
        window=int(state["start"] - state["min_pfn"]) // limit,
        bitmap=int(state["index"]),
        n_bitmaps=limit // kernels.BITMAP_PAGES,
        n_bitmaps_left=int(state["n_bitmaps"]),
        n_sends=int(state["n_sends"]),
    )


@dataclass(frozen=True)
class PostedRun:
    """What the posted driver sent of a page set.

    Attributes
    ----------
    pages, earlier : uint64 array
        Pages of this inflation, and those that were in the balloon before.
    buffers : list of bytes
        Messages the host received.
    fault : Fault or None
        Where it went wrong; nothing is sent after that.
    n_walked : int
        Entries of the page list that were looked at, over all windows.
    """

    pages: npt.NDArray[np.uint64] = field(repr=False)
    earlier: npt.NDArray[np.uint64] = field(repr=False)
    buffers: list[bytes] = field(repr=False)
    fault: Fault | None
    n_walked: int

    @cached_property
    def sent(self) -> npt.NDArray[np.uint64]:
        """Pages that the messages name, as often as they do, in wire order."""
        ranges = decode_buffers(BITMAP_V4, self.buffers)
        lengths = ranges["n_pages"].astype(np.int64)
        starts = np.repeat(ranges["start_pfn"], lengths)
        into = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return starts + into.astype(np.uint64)

    @property
    def never_sent(self) -> npt.NDArray[np.uint64]:
        """Pages of this inflation that no message names, ascending."""
        return np.setdiff1d(self.pages, self.sent)

    @property
    def sent_again(self) -> npt.NDArray[np.uint64]:
        """Pages named more than once, or though they were in the balloon before, ascending."""
        named, times = np.unique(self.sent, return_counts=True)
        return named[(times > 1) | np.isin(named, self.earlier)]


def run_posted(
    pfns: npt.ArrayLike,
    earlier: npt.ArrayLike = (),
    bitmaps: int = MAX_BITMAPS,
    max_pfn: int | None = None,
    failing_sends: Collection[int] = (),
) -> PostedRun:
    """Run the posted driver over the pages of one inflation.

    Parameters
    ----------
    pfns : array-like of int, shape (n,), n > 0
        Pages this inflation took, in order.
    earlier : array-like of int
        Pages that were in the balloon before: the driver walks them too.
    bitmaps : int
        Bitmaps of 32 KiB that the guest has memory for, 1 to 32.
    max_pfn : int, optional
        One more than the guest's highest page number, by which the driver decides how many
        bitmaps it wants. By default that of the highest page given.
    failing_sends : collection of int
        Numbers of the sends, from 0, for which the queue has no room.

    Raises
    ------
    TypeError, ValueError
        As `balloonlab.wire.encode`; `bitmaps` is not 1 to 32, or no pages.
    """
    pages, before = as_pfns(pfns), as_pfns(earlier, "earlier")
    if pages.size == 0:
        raise ValueError("pfns must hold at least one page: the driver sends nothing without")
    if not 1 <= bitmaps <= MAX_BITMAPS:
        raise ValueError(f"bitmaps must be 1 to {MAX_BITMAPS}, got {bitmaps}")
    walked = np.concatenate([before, pages])
    for _ in pack_windows(walked):  # raises when a page comes twice
        pass
    top = int(walked.max()) + 1 if max_pfn is None else max_pfn
    if top <= walked.max():
        raise ValueError(f"max_pfn must be above the highest page {walked.max()}, got {max_pfn}")
    n_bitmaps = min(bitmaps, -(-top // kernels.BITMAP_PAGES))
    encoder = make_encoder(Encoding.RECORDS_AS_POSTED, 0, n_bitmaps)
    encode.begin(encoder, pages)
    buffers: list[bytes] = []
    tried = 0
    while n_bytes := encode.next_message(encoder, walked):
        if tried not in failing_sends:
            message = encoder.header.tobytes() + encoder.records.tobytes()
            buffers.append(message[:n_bytes])
            encode.message_used(encoder)
        tried += 1
    state = encoder.posted[0]
    return PostedRun(pages, before, buffers, fault_of(state), int(state["n_walked"]))


BITMAP_V4_POSTED = replace(
    BITMAP_V4,
    name="bitmap-v4-posted",
    encoding=Encoding.RECORDS_AS_POSTED,
    names_each_page_once=False,
)
