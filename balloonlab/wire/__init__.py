"""Wire formats: how pages are encoded, one module per format, one registry over all.

>>> from balloonlab import wire
>>> wire.formats()[:3]
['pfn', 'bitmap-v4', 'bitmap-v4-posted']
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernels.formats import Encoding
from ..kernels.pfn import PFNS_PER_BUFFER, write_pfns
from ..pages.checks import as_pfns
from .adaptive import ADAPTIVE
from .bitmap import SPARE_RUNS, find_runs, pack, pack_windows, split
from .bitmap_v3 import BITMAP_V3
from .bitmap_v4 import BITMAP_V4, BITMAP_V4_WIDE
from .defects import DEFECTS, defect_rates, smallest
from .features import Feature
from .format import RANGE, Buffer, Format, decode_buffers
from .pfn import PFN, with_kick_pages
from .posted import BITMAP_V4_POSTED, Fault, PostedDriverError, PostedRun, run_posted
from .record_table import records
from .registered import CODECS, PFN_LIMIT, Codec, compile_format, decode_with, is_compiled
from .run_records import CHUNK_V7, CONT_PAGES, DESC_V11, RANGE_V6

__all__ = [
    "DEFECTS",
    "RANGE",
    "SPARE_RUNS",
    "Fault",
    "Feature",
    "Format",
    "PostedDriverError",
    "PostedRun",
    "decode",
    "defect_rates",
    "encode",
    "find_runs",
    "formats",
    "get",
    "pack",
    "records",
    "register",
    "run_posted",
    "smallest",
    "spoken",
]

_FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        *(PFN, BITMAP_V4, BITMAP_V4_POSTED, BITMAP_V4_WIDE, BITMAP_V3),
        *(RANGE_V6, CHUNK_V7, DESC_V11, CONT_PAGES, ADAPTIVE),
    )
}


_OWN: dict[str, Format] = {}
"""Those of `register` that are compiled."""


def formats() -> list[str]:
    """List the names of the wire formats; ``bitmap-v4-posted`` has the seed patch's defects.

    Those of `register` come last, and those of them that are plain Python very last.
    """
    return [*spoken(), *CODECS]


def spoken() -> list[str]:
    """List the formats that balloonlab's driver and device speak: all but plain Python codecs."""
    return [*_FORMATS, *_OWN]


def register(
    name: str, encode: Callable[..., Any], decode: Callable[..., Any], pfn_limit: int = PFN_LIMIT
) -> None:
    """Add a wire format of your own, or put another in its place.

    In plain Python it is encoded, decoded and counted beside the others (`balloonlab.encodings`,
    `balloonlab.model.messages`). Two functions of ``numba.njit`` are compiled into the driver and
    the device, and measured, too (``protocol=name`` of `balloonlab.measure`); a result that was
    stored does not know them: give a changed format another name.

    Parameters
    ----------
    name : str
        A new one, or one that was registered before; a ValueError for those of balloonlab.
    encode : callable
        In plain Python: takes pages (uint64 array, shape (n,), n > 0, each once, in the guest's
        order), gives buffers (bytes), one per kick. Compiled: ``encode(words, first_pfn, own,
        area)`` writes the pages of a bitmap (``words``, uint64; bit 0 is page ``first_pfn``) into a
        message of up to 32 KiB (``area``, uint64) and returns its words; it is called until it
        returns 0. ``own`` (int64, shape (4,)), zeros before the first of these calls, is its to
        keep. It allocates nothing; its records are not counted.
    decode : callable
        In plain Python: takes one buffer, gives pairs of a first page and a number of pages, in
        wire order. Compiled: ``decode(words, n_bytes, ranges)`` writes them into the rows of
        ``ranges`` (int64, shape (4 * n_bytes or more, 2)) and returns how many, or -1 for a message
        that cannot be right. It must trust nothing: a guest can send any bytes.
    pfn_limit : int
        Page numbers are below it.

    Raises
    ------
    ValueError, TypeError
        A name of balloonlab's; no functions; a pair that does not compile, or only one of
        ``numba.njit``.

    Examples
    --------
    Runs of pages in the order they come, a 64-bit page number and a 16-bit count each:

    >>> from balloonlab import model, wire
    >>> def encode(pages):
    ...     records, start, n = [], int(pages[0]), 0
    ...     for page in pages.tolist():
    ...         if page != start + n or n == 65_535:
    ...             records.append(start.to_bytes(8, "little") + n.to_bytes(2, "little"))
    ...             start, n = page, 0
    ...         n += 1
    ...     records.append(start.to_bytes(8, "little") + n.to_bytes(2, "little"))
    ...     return [b"".join(records[i : i + 400]) for i in range(0, len(records), 400)]
    >>> def decode(buffer):
    ...     for at in range(0, len(buffer), 10):
    ...         record = buffer[at : at + 10]
    ...         yield int.from_bytes(record[:8], "little"), int.from_bytes(record[8:], "little")
    >>> wire.register("runs-16", encode, decode)
    >>> wire.decode(wire.encode([7, 8, 3], "runs-16"), "runs-16").tolist()
    [(7, 2), (3, 1)]
    >>> model.messages(range(500), ["pfn", "runs-16"])["wire bytes"].to_dict()
    {'pfn': 2000, 'runs-16': 10}

    Words of the bitmap that are not 0, each behind its number, measured end to end:

    >>> from numba import njit
    >>> @njit
    ... def encode_words(words, first_pfn, own, area):
    ...     n, at = 0, own[0]
    ...     while at < words.size and n + 2 <= area.size:
    ...         if words[at] != 0:
    ...             area[n], area[n + 1] = first_pfn // 64 + at, words[at]
    ...             n += 2
    ...         at += 1
    ...     own[0] = at
    ...     return n
    >>> @njit
    ... def decode_words(words, n_bytes, ranges):
    ...     n = 0
    ...     for at in range(0, n_bytes // 16 * 2, 2):
    ...         for bit in range(64):
    ...             if (words[at + 1] >> bit) & 1:
    ...                 ranges[n, 0], ranges[n, 1] = 64 * (words[at] & 0xFFFFFFFF) + bit, 1
    ...                 n += 1
    ...     return n
    >>> wire.register("words", encode_words, decode_words)
    >>> import balloonlab as bl
    >>> run = bl.measure(memory="8MiB", protocol="words", repeats=1, progress=False)
    >>> int(run.frame["n_kicks"].iloc[0]), int(run.frame["wire_bytes"].iloc[0])
    (1, 448)
    """
    if not isinstance(name, str) or not name or name in _FORMATS:
        taken = ", ".join(_FORMATS)
        raise ValueError(f"name must be a new one, not one of {taken}, got {name!r}")
    for what, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise TypeError(f"{what} must be a function, got {function!r}")
    limit, compiled = operator.index(pfn_limit), [is_compiled(one) for one in (encode, decode)]
    if any(compiled) != all(compiled):
        raise TypeError(f"encode and decode of {name!r} must both be of numba.njit, or neither")
    own = compile_format(name, encode, decode, limit) if all(compiled) else None
    _OWN.pop(name, None)
    CODECS.pop(name, None)
    if own:
        _OWN[name] = own
    else:
        CODECS[name] = Codec(encode, decode, limit)


def get(name: str, kick_pages: int = PFNS_PER_BUFFER) -> Format:
    """Look up a wire format; a ValueError lists those there are.

    `kick_pages` are the page numbers in a buffer of ``pfn``, 64 to 65,536; no other format has
    another number than 256 (ValueError).
    """
    try:
        wire_format = _OWN[name] if name in _OWN else _FORMATS[name]
    except (KeyError, TypeError):
        raise ValueError(f"protocol must be one of {', '.join(spoken())}, got {name!r}") from None
    return with_kick_pages(wire_format, operator.index(kick_pages))


def encode(pfns: npt.ArrayLike, protocol: str, kick_pages: int = PFNS_PER_BUFFER) -> list[bytes]:
    """Encode page numbers into the buffers that the driver puts on the queue, by its own kernels.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Pages in the order the guest allocated them, which shows in ``pfn`` and in no bitmap.
    protocol : str
        One of `formats`.
    kick_pages : int
        Page numbers in a buffer of ``pfn``, 64 to 65,536; Linux has 256.

    Returns
    -------
    list of bytes
        One buffer per kick, as it stands in guest memory: for ``bitmap-v4`` the 8-byte response
        header and the records. No pages give no buffers.

    Raises
    ------
    TypeError, ValueError
        Unknown protocol; pages that are not integers, are negative, come twice, or exceed the
        format (32 bits in ``pfn`` and ``cont-pages``, 39 in ``adaptive``, else 52); `kick_pages`
        for another format.
    PostedDriverError
        ``bitmap-v4-posted`` crashed its guest on these pages.

    Examples
    --------
    >>> [buffer.hex() for buffer in encode([1, 2], "pfn")]
    ['0100000002000000']
    """
    codec, pages = CODECS.get(protocol), as_pfns(pfns)
    wire_format = codec or get(protocol, kick_pages)
    if isinstance(wire_format, Format) and wire_format.encoding == Encoding.BLOCKS:
        raise ValueError(f"protocol={protocol!r} has no buffers to encode pages into")
    if pages.size == 0:
        return []
    # What packs pages finds their highest itself; another walk would be a fifth of the time.
    if wire_format.pfn_limit < PFN_LIMIT and pages.max() >= wire_format.pfn_limit:
        bits = wire_format.pfn_limit.bit_length() - 1
        raise ValueError(
            f"pfns must be below 2**{bits} in {protocol!r}, got {int(pages.max())}: use 'bitmap-v4'"
        )
    if isinstance(wire_format, Codec):
        for _ in pack_windows(pages):  # raises when a page comes twice
            pass
        return [bytes(buffer) for buffer in wire_format.encode(pages)]
    return _ENCODERS.get(wire_format.encoding, _encode_records)(wire_format, pages)


def _encode_pfns(wire_format: Format, pages: npt.NDArray[np.uint64]) -> list[bytes]:
    for _ in pack_windows(pages):  # raises when a page comes twice
        pass
    out = np.empty(pages.size, np.uint32)
    write_pfns(pages, out)  # one batch after the other, as the driver writes each
    data, step = out.tobytes(), wire_format.max_message_bytes
    return [data[i : i + step] for i in range(0, len(data), step)]


def _encode_records(wire_format: Format, pages: npt.NDArray[np.uint64]) -> list[bytes]:
    return split(pack_windows(pages), wire_format.encoding)[0]


def _encode_as_posted(wire_format: Format, pages: npt.NDArray[np.uint64]) -> list[bytes]:
    run = run_posted(pages)
    if run.fault is not None:
        raise PostedDriverError(run.fault)
    return run.buffers


_ENCODERS: dict[int, Callable[[Format, npt.NDArray[np.uint64]], list[bytes]]] = {
    Encoding.PFNS: _encode_pfns,
    Encoding.RECORDS_AS_POSTED: _encode_as_posted,
}
"""How messages are taken out of the driver's kernels, where they are not made of a bitmap. Blocks
have none: they are descriptors."""


def decode(
    stream: Iterable[Buffer], protocol: str, kick_pages: int = PFNS_PER_BUFFER
) -> npt.NDArray[np.void]:
    """Decode buffers into ranges of pages, in wire order.

    Parameters
    ----------
    stream : iterable of bytes-like
        Buffers as `encode` gives them.
    protocol : str
        One of `formats`.
    kick_pages : int
        As of `encode`: no buffer of ``pfn`` may have more.

    Returns
    -------
    structured array, shape (n,)
        Fields ``start_pfn`` and ``n_pages``, both ``<u8``. ``pfn`` gives one range per page;
        ``bitmap-v4`` one per block and one per run of bits within a word.

    Raises
    ------
    ValueError
        Unknown protocol, or the first record that cannot be right: its buffer, byte and rule.

    Examples
    --------
    >>> decode(encode([7, 8], "bitmap-v4"), "bitmap-v4")
    array([(7, 2)], dtype=[('start_pfn', '<u8'), ('n_pages', '<u8')])
    """
    if codec := CODECS.get(protocol):
        return decode_with(codec, protocol, stream)
    return decode_buffers(get(protocol, kick_pages), stream)


def __dir__() -> list[str]:
    return __all__
