"""Formats of one's own: two functions, to be counted beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .format import RANGE, Buffer

PFN_LIMIT = 1 << 52


class Codec(NamedTuple):
    """A format that a user registered."""

    encode: Callable[[npt.NDArray[np.uint64]], Iterable[Buffer]]
    decode: Callable[[Buffer], Iterable[tuple[int, int]]]
    pfn_limit: int


CODECS: dict[str, Codec] = {}
"""Those there are, by name."""


def decode_with(codec: Codec, name: str, stream: Iterable[Buffer]) -> npt.NDArray[np.void]:
    """Decode buffers into ranges; a ValueError for one that is empty or beyond the page numbers."""
    ranges = [(int(start), int(n)) for buffer in stream for start, n in codec.decode(buffer)]
    for start, n in ranges:
        if n < 1 or start < 0 or start + n > codec.pfn_limit:
            raise ValueError(
                f"{name!r} must decode to ranges of pages below {codec.pfn_limit}, got {n} pages "
                f"from {start} on"
            )
    return np.array(ranges, RANGE)
