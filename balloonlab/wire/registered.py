"""Formats of one's own: two functions, in plain Python to be counted, compiled to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import carray, cfunc, types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from ..kernels.bitmap_v4 import RECORD_WORDS
from ..kernels.own import GO_ON
from .features import Feature
from .format import RANGE, Buffer, Format

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


_NUMBER, _WORDS, _NUMBERS = types.int64, types.CPointer(types.uint64), types.CPointer(types.int64)
_ENCODE = _NUMBER(_WORDS, _NUMBER, _NUMBER, _NUMBERS, _WORDS, _NUMBER)
_DECODE = _NUMBER(_WORDS, _NUMBER, _NUMBERS, _NUMBER, _NUMBER, _NUMBER)
_kept: list[Any] = []
"""What was compiled: a driver may hold its address."""


def is_compiled(function: object) -> bool:
    """Return whether numba compiles it."""
    return isinstance(function, Dispatcher)


def compile_format(name: str, encode: Any, decode: Any, pfn_limit: int) -> Format:
    """Return a format that a driver and a device speak; a TypeError for what does not compile."""

    def call_encode(words, n_words, first_pfn, own, area, n_area):  # type: ignore[no-untyped-def]
        bitmap, room = carray(words, (n_words,)), carray(area, (n_area,))
        return encode(bitmap, first_pfn, carray(own, (GO_ON,)), room)

    def call_decode(words, n_bytes, ranges, n_rows, _, __):  # type: ignore[no-untyped-def]
        message = carray(words, ((n_bytes + 7) // 8,))
        return decode(message, n_bytes, carray(ranges, (n_rows, 2)))

    try:
        pair = cfunc(_ENCODE, nogil=True)(call_encode), cfunc(_DECODE, nogil=True)(call_decode)
    except NumbaError as error:
        raise TypeError(
            f"encode and decode of {name!r} must compile as encode(words, first_pfn, own, area) "
            f"and decode(words, n_bytes, ranges): {error}"
        ) from error
    _kept.append(pair)
    return Format(
        name=name,
        encoding=pair[0].address,
        decoding=pair[1].address,
        max_message_bytes=8 * RECORD_WORDS,
        pfn_limit=pfn_limit,
        discard="range",
        feature=Feature.PAGE_BITMAP,
        max_kicks=lambda n_pages, span_pages: n_pages,  # a message names a page or more
    )
