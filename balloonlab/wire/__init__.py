"""Wire formats: how pages are encoded, one module per format, one registry over all.

>>> from balloonlab import wire
>>> wire.formats()
['pfn', 'bitmap-v4', 'bitmap-v4-posted']
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ..kernels.formats import Encoding
from ..kernels.pfn import PFNS_PER_BUFFER, write_pfns
from ..pages.checks import as_pfns
from .bitmap import SPARE_RUNS, find_runs, pack, pack_windows, split
from .bitmap_v4 import BITMAP_V4
from .defects import DEFECTS, defect_rates, smallest
from .features import Feature
from .format import RANGE, Buffer, Format, decode_buffers
from .pfn import PFN, with_kick_pages
from .posted import BITMAP_V4_POSTED, Fault, PostedDriverError, PostedRun, run_posted
from .record_table import records

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
    "run_posted",
    "smallest",
]

_FORMATS: dict[str, Format] = {entry.name: entry for entry in (PFN, BITMAP_V4, BITMAP_V4_POSTED)}


def formats() -> list[str]:
    """List the names of the wire formats; ``bitmap-v4-posted`` has the seed patch's defects."""
    return list(_FORMATS)


def get(name: str, kick_pages: int = PFNS_PER_BUFFER) -> Format:
    """Look up a wire format; a ValueError lists those there are.

    `kick_pages` are the page numbers in a buffer of ``pfn``, 64 to 65,536; no other format has
    another number than 256 (ValueError).
    """
    try:
        wire_format = _FORMATS[name]
    except (KeyError, TypeError):
        raise ValueError(f"protocol must be one of {', '.join(_FORMATS)}, got {name!r}") from None
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
        format (32 bits in ``pfn``, 52 in ``bitmap-v4``); `kick_pages` for another format.
    PostedDriverError
        ``bitmap-v4-posted`` crashed its guest on these pages.

    Examples
    --------
    >>> [buffer.hex() for buffer in encode([1, 2], "pfn")]
    ['0100000002000000']
    """
    wire_format, pages = get(protocol, kick_pages), as_pfns(pfns)
    if wire_format.encoding not in _ENCODERS:
        raise ValueError(f"protocol={protocol!r} has no buffers to encode pages into")
    return _ENCODERS[wire_format.encoding](wire_format, pages) if pages.size else []


def _encode_pfns(wire_format: Format, pages: npt.NDArray[np.uint64]) -> list[bytes]:
    if pages.max() >= wire_format.pfn_limit:
        raise ValueError(
            f"pfns must be below 2**32 in 'pfn', got {int(pages.max())}: use 'bitmap-v4'"
        )
    for _ in pack_windows(pages):  # raises when a page comes twice
        pass
    out = np.empty(pages.size, np.uint32)
    write_pfns(pages, out)  # one batch after the other, as the driver writes each
    data, step = out.tobytes(), wire_format.max_message_bytes
    return [data[i : i + step] for i in range(0, len(data), step)]


def _encode_records(wire_format: Format, pages: npt.NDArray[np.uint64]) -> list[bytes]:
    return [buffer for window in pack_windows(pages) for buffer in split(*window)[0]]


def _encode_as_posted(wire_format: Format, pages: npt.NDArray[np.uint64]) -> list[bytes]:
    run = run_posted(pages)
    if run.fault is not None:
        raise PostedDriverError(run.fault)
    return run.buffers


_ENCODERS = {
    Encoding.PFNS: _encode_pfns,
    Encoding.RECORDS: _encode_records,
    Encoding.RECORDS_AS_POSTED: _encode_as_posted,
}
"""How messages are taken out of the driver's kernels. Blocks have none: they are descriptors."""


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
    return decode_buffers(get(protocol, kick_pages), stream)


def __dir__() -> list[str]:
    return __all__
