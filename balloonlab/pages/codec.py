"""Page numbers in few bytes: runs, in an xz file with a delta filter.

The pages of a guest come in runs, upwards or downwards by one page. A run is two numbers:
its first page, and how many further pages it has, negative where they go down. Both are
modulo 2**64, so that any page numbers in any order come back as they were.

After decompression (``xz -dc``), all numbers little-endian:

============ ===================================
16 bytes     ``balloonlab runs`` and a line end
8 bytes      number of pages
8 n bytes    first page of each of n runs
8 n bytes    lengths less one, likewise
============ ===================================
"""

from __future__ import annotations

import lzma

import numpy as np
import numpy.typing as npt

from .checks import as_pfns

MAGIC = b"balloonlab runs\n"
HEADER_BYTES = len(MAGIC) + 8
FILTERS = [
    {"id": lzma.FILTER_DELTA, "dist": 8},
    {"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "lc": 0, "lp": 3, "pb": 3},
]
"""Differences of 8-byte numbers, and a compressor that looks at them by their byte."""

_ONE, _ALL = np.uint64(1), np.uint64(2**64 - 1)


def encode(pfns: npt.ArrayLike) -> bytes:
    """Encode page numbers (any, shape (n,)) as an xz file; order and repetition are kept."""
    pages = as_pfns(pfns)
    steps = np.diff(pages)
    # 1 up, 2 down, 0 neither.
    kind = (steps == _ONE) + 2 * (steps == _ALL).astype(np.int8)
    turns = np.zeros(kind.size, bool)
    turns[1:] = (kind[1:] != kind[:-1]) & (kind[:-1] != 0)
    first = np.flatnonzero(np.concatenate([[True], (kind == 0) | turns])[: pages.size])
    last = np.append(first[1:] - 1, pages.size - 1)[: first.size]
    runs = np.concatenate([pages[first], pages[last] - pages[first]])  # modulo 2**64
    content = MAGIC + pages.size.to_bytes(8, "little") + runs.astype("<u8").tobytes()
    return lzma.compress(content, filters=FILTERS)


def decode(content: bytes) -> npt.NDArray[np.uint64]:
    """Decode what `encode` returned; ``ValueError`` where it is damaged, or something else."""
    try:
        plain = lzma.decompress(content)
    except lzma.LZMAError as error:
        raise ValueError(f"not an xz file, or a damaged one: {error}") from None
    if not plain.startswith(MAGIC) or len(plain) < HEADER_BYTES or len(plain) % 16 != 8:
        raise ValueError("an xz file, but not one of page numbers")
    n_pages = int.from_bytes(plain[len(MAGIC) : HEADER_BYTES], "little")
    first, lengths = np.frombuffer(plain, "<u8", -1, HEADER_BYTES).reshape(2, -1).astype(np.uint64)
    down = lengths >> np.uint64(63) == _ONE
    sizes = np.where(down, _ALL - lengths + _ONE, lengths).astype(np.int64) + 1
    if sizes.sum() != n_pages:
        raise ValueError(f"runs hold {sizes.sum()} pages, not the {n_pages} that were written")
    within = np.arange(n_pages, dtype=np.uint64)
    within -= np.repeat((np.cumsum(sizes) - sizes).astype(np.uint64), sizes)
    return np.repeat(first, sizes) + within * np.repeat(np.where(down, _ALL, _ONE), sizes)
