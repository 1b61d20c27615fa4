"""Encode and decode as the driver and the device do, by their kernels alone, and time it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeVar

import numpy as np

from .. import wire
from ..kernels import faults, streams
from ..kernels.bitmap_v4 import BITMAP_WORDS, MAX_BITMAPS, RECORD_WORDS
from ..kernels.encode import Encoder
from ..wire.format import RANGES_PER_BYTE, Format, joined, make_encoder
from ..wire.registered import CODECS
from ..wire.run_records import runs_of
from .counting import REFERENCES, ROARING, Pages, messages, roaring

Work = Callable[[], object]


def works(name: str, pages: Pages, order: str) -> tuple[Work, Work] | None:
    """Return what encodes and what decodes a page set; None for what is only counted."""
    if name == "roaring":
        data = roaring(pages)
        load = import_module(ROARING).BitMap.deserialize
        return (lambda: roaring(pages)), (lambda: load(data).to_array())
    if name in REFERENCES or name in CODECS:
        return None
    wire_format = wire.get(name)
    return _encoding(wire_format, pages, order), _decoding(wire_format, pages, order)


def encoder_of(wire_format: Format, pages: Pages) -> Encoder:
    """Return an encoder of all pages, with as many bitmaps as a driver has at most."""
    span = int(pages.max()) // 64 * 64 - int(pages.min()) // 64 * 64 + 64
    n_bitmaps = -(-span // (64 * BITMAP_WORDS))
    encoder = make_encoder(wire_format.encoding, pages.size, min(MAX_BITMAPS, n_bitmaps))
    n_windows = -(-n_bitmaps // MAX_BITMAPS)
    room = np.ones(pages.size if n_windows > 1 else 0, np.uint64)
    return encoder._replace(sorted=room, ends=np.zeros(n_windows, np.int64))


def _encoding(wire_format: Format, pages: Pages, order: str) -> Work:
    kind = runs_of(wire_format)
    if order == "list" and kind is not None:
        area, numbers = np.ones(RECORD_WORDS, np.uint64), pages.view(np.int64)
        return lambda: streams.encode_all_listed(int(kind), numbers, area)
    encoder = encoder_of(wire_format, pages)
    return lambda: streams.encode_all(encoder, pages)


def _decoding(wire_format: Format, pages: Pages, order: str) -> Work:
    words, spans = joined(messages(wire_format.name, pages, order)[0])
    ranges = np.ones((RANGES_PER_BYTE * wire_format.max_message_bytes, 2), np.int64)
    fault = np.zeros(1, faults.FAULTS)
    decoding = int(wire_format.decoding)
    return lambda: streams.decode_all(decoding, words, spans, ranges, fault)


Name = TypeVar("Name")


def time_in_turns(todo: Mapping[Name, Work], repeats: int) -> dict[Name, list[int]]:
    """Do every work once, then time each in turns, in another order each round; ns by name."""
    for work in todo.values():
        work()
    rng, names = np.random.default_rng(0), list(todo)
    times: dict[Name, list[int]] = {name: [] for name in names}
    for _ in range(repeats):
        for i in rng.permutation(len(names)):
            begin = time.perf_counter_ns()
            todo[names[i]]()
            times[names[i]].append(time.perf_counter_ns() - begin)
    return times
