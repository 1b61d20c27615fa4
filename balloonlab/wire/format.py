"""What every wire format offers, and the decoding loop that all share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..kernels import faults
from .features import Feature

RANGE = np.dtype([("start_pfn", "<u8"), ("n_pages", "<u8")])
"""A run of pages; what every format decodes to."""

Buffer: TypeAlias = bytes | bytearray | memoryview
RANGES_PER_BYTE = 4
"""A bitmap byte holds at most four runs; no format tells ranges more densely."""


@dataclass(frozen=True)
class Format:
    """A way to tell pages.

    Attributes
    ----------
    name : str
        As in ``protocol=``.
    number : int
        The format's number in `balloonlab.kernels.device`.
    max_message_bytes : int
        The longest buffer a device of this format takes.
    discard : str
        How the host applies it by default: ``"page"`` or ``"range"``.
    feature : Feature
        What must be negotiated before it is used.
    encode : callable
        Page numbers to list of buffers.
    max_kicks : callable
        ``(n_pages, span_pages) -> int``: an upper bound on the buffers for that many
        pages within that span of page numbers.
    decode_kernel : callable
        ``(words, n_bytes, ranges, faults) -> n``, see `balloonlab.kernels`.
    faithful : bool
        Whether it tells every page exactly once. Others are there to be studied.
    """

    name: str
    number: int
    max_message_bytes: int
    discard: str
    feature: Feature
    encode: Callable[[npt.ArrayLike], list[bytes]]
    max_kicks: Callable[[int, int], int]
    decode_kernel: Callable[..., int]
    faithful: bool = True


def decode_buffers(wire_format: Format, stream: Iterable[Buffer]) -> npt.NDArray[np.void]:
    """Decode every buffer of a stream; see `balloonlab.wire.decode`."""
    if isinstance(stream, bytes | bytearray | memoryview | str):
        raise TypeError(
            f"stream must be an iterable of buffers, got one {type(stream).__name__}: "
            "put a single buffer in a list"
        )
    copy = np.zeros(0, np.uint64)
    ranges = np.zeros((0, 2), np.int64)
    found = []
    for number, buffer in enumerate(stream):
        data = np.frombuffer(buffer, np.uint8)
        if copy.nbytes < data.size:
            copy = np.zeros(-(-data.size // 8), np.uint64)
            ranges = np.zeros((RANGES_PER_BYTE * copy.nbytes, 2), np.int64)
        copy.view(np.uint8)[: data.size] = data
        fault = faults.no_faults()
        n = wire_format.decode_kernel(copy, data.size, ranges, fault)
        bad = faults.logged(fault)
        if len(bad):
            _, kind, position = bad[0]
            raise ValueError(
                f"buffer {number} is not {wire_format.name!r}: at byte {position} of "
                f"{data.size}, {faults.DESCRIPTIONS[kind]}"
            )
        found.append(ranges[:n].copy())
    rows = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    return rows.view(RANGE)[:, 0]
