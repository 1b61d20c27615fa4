"""What every wire format offers, and the encoding and decoding loops that all share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..kernels import encode as kernels
from ..kernels import faults, posted
from ..kernels.bitmap import survey_words
from ..kernels.bitmap_v4 import BITMAP_WORDS, RECORD_WORDS
from ..kernels.formats import Encoding
from ..kernels.own import GO_ON
from ..kernels.pfn import PFNS_PER_BUFFER
from ..kernels.streams import decode_stream
from .features import Feature

RANGE = np.dtype([("start_pfn", "<u8"), ("n_pages", "<u8")])
"""A run of pages; what every format decodes to."""

Buffer: TypeAlias = bytes | bytearray | memoryview
RANGES_PER_BYTE = 4
"""A bitmap byte holds at most four runs; no format names ranges more densely."""

_COLLECTED_BYTES, _COLLECTED = 1 << 17, 1024
"""Room for messages that are copied out at a time: with 256 KiB, page faults cost 3 %."""


@dataclass(frozen=True)
class Format:
    """A wire format: which kernels encode and decode it, and its limits.

    Attributes
    ----------
    name : str
        As in ``protocol=``.
    encoding, decoding : int
        How the driver encodes pages, how the device decodes a message: of
        `balloonlab.kernels.formats`, or the addresses of functions of one's own.
    max_message_bytes : int
        The longest buffer a device of this format takes.
    pfn_limit : int
        Page numbers are below it.
    discard : str
        How the host applies it by default: ``"page"`` or ``"range"``.
    feature : Feature
        What must be negotiated before it is used.
    max_kicks : callable
        ``(n_pages, span_pages) -> int``: an upper bound on the buffers for that many pages within
        that span of page numbers.
    names_each_page_once : bool
        False for the posted driver, which is there to be studied.
    kick_pages : int
        Page numbers in a buffer that has nothing else.
    """

    name: str
    encoding: int
    decoding: int
    max_message_bytes: int
    pfn_limit: int
    discard: str
    feature: Feature
    max_kicks: Callable[[int, int], int]
    names_each_page_once: bool = True
    kick_pages: int = PFNS_PER_BUFFER


def make_encoder(
    encoding: int,
    n_pages: int,
    n_bitmaps: int = 1,
    kick_pages: int = PFNS_PER_BUFFER,
    in_flight: int = 1,
) -> kernels.Encoder:
    """Return an encoder of one window with buffers of its own; a driver puts others in their place.

    `n_pages` are the most it is given at a time, `n_bitmaps` the bitmaps of 32 KiB it has,
    `kick_pages` as of `Format`; `in_flight` messages have a buffer each.
    """
    # Written once, so that timed code meets no page fault.
    return kernels.Encoder(
        encoding=int(encoding),
        kick_pages=kick_pages,
        in_flight=in_flight,
        pfns=np.full(in_flight * kick_pages, 1, np.uint32),
        header=np.full(in_flight, 1, np.uint64),
        records=np.full(in_flight * RECORD_WORDS, 1, np.uint64),
        pfns_gpa=0,
        header_gpa=0,
        records_gpa=0,
        block_order=0,
        block_bytes=0,
        bitmaps=np.full(n_bitmaps * BITMAP_WORDS, 1, np.uint64),
        blocks=np.ones(survey_words(n_pages), np.uint64),
        sorted=np.zeros(0, np.uint64),
        ends=np.zeros(1, np.int64),
        chosen=np.zeros(n_bitmaps * BITMAP_WORDS if encoding == Encoding.SEGMENTS else 0, np.uint8),
        own=np.zeros(GO_ON, np.int64),
        state=np.zeros(1, kernels.STATE),
        posted=np.zeros(1, posted.STATE),
    )


def collect(encoder: kernels.Encoder) -> list[bytes]:
    """Return the messages of records that are left of an encoder, as the driver would send them."""
    out, walked = np.empty(_COLLECTED_BYTES // 8, np.uint64), np.zeros(0, np.uint64)
    spans = np.empty((_COLLECTED, 2), np.int64)
    stream: list[bytes] = []
    while n := kernels.collect(encoder, walked, out, spans):
        words = int(spans[n - 1, 0]) + -(-int(spans[n - 1, 1]) // 8)
        data = out[:words].tobytes()
        stream += [data[8 * word : 8 * word + n_bytes] for word, n_bytes in spans[:n].tolist()]
    return stream


def decode_buffers(wire_format: Format, stream: Iterable[Buffer]) -> npt.NDArray[np.void]:
    """Decode every buffer of a stream; see `balloonlab.wire.decode`."""
    if isinstance(stream, bytes | bytearray | memoryview | str):
        raise TypeError(
            f"stream must be an iterable of buffers, got one {type(stream).__name__}: "
            "put a single buffer in a list"
        )
    room = RANGES_PER_BYTE * (_COLLECTED_BYTES + wire_format.max_message_bytes)
    ranges, found, first = np.empty((room, 2), np.int64), [np.zeros((0, 2), np.int64)], 0
    for batch in _batches(stream, wire_format):
        words, spans = joined(batch)
        ends, fault = np.zeros(len(batch), np.int64), np.zeros(1, faults.FAULTS)
        n = decode_stream(int(wire_format.decoding), words, spans, ranges, ends, fault)
        for _, kind, position in faults.logged(fault):
            raise ValueError(
                f"buffer {first + n} is not {wire_format.name!r}: at byte {position} of "
                f"{len(batch[n])}, {faults.DESCRIPTIONS[kind]}"
            )
        found.append(ranges[: ends[-1]].copy())
        first += n
    return np.concatenate(found).view(RANGE)[:, 0]


def joined(stream: list[bytes]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Put messages behind each other, each from a word on; return the words and where each is.

    Of each the second array has a row: its first word and its bytes.
    """
    n_bytes = np.array([len(buffer) for buffer in stream], np.int64)
    n_words = -(-n_bytes // 8)
    # Writeable, as what a device reads: kernels would be compiled once more for what is not.
    padded = bytearray().join(buffer + bytes(-len(buffer) % 8) for buffer in stream)
    return np.frombuffer(padded, np.uint64), np.column_stack(
        [np.cumsum(n_words) - n_words, n_bytes]
    )


def _batches(stream: Iterable[Buffer], wire_format: Format) -> Iterator[list[bytes]]:
    """Yield checked buffers, so many at a time that the kernel is called rarely."""
    batch, n_bytes = list[bytes](), 0
    for number, buffer in enumerate(stream):
        batch.append(_as_bytes(buffer, number, wire_format))
        n_bytes += len(batch[-1])
        if n_bytes >= _COLLECTED_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _as_bytes(buffer: Buffer, number: int, wire_format: Format) -> bytes:
    if not isinstance(buffer, bytes | bytearray | memoryview | np.ndarray):
        raise TypeError(
            f"stream must hold buffers (bytes, as balloonlab.wire.encode returns them), got "
            f"{buffer!r:.40} of type {type(buffer).__name__} as buffer {number}"
        )
    data = bytes(buffer)
    if len(data) > wire_format.max_message_bytes:
        raise ValueError(
            f"buffer {number} is not {wire_format.name!r}: it has {len(data)} bytes, and no "
            f"message more than {wire_format.max_message_bytes}"
        )
    return data
