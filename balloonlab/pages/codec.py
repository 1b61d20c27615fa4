"""Page numbers in few bytes: steps between runs, by byte plane, in an xz file.

What a guest tells comes in runs, upwards or downwards by one page. Each run is two
numbers: how far its first page is from the last page of the run before, and how many
further pages it has, negative where they go down. Differences are taken modulo 2**64, so
that any page numbers in any order come back as they were.

After decompression (``xz -dc``), all numbers little-endian:

=========================== ================================================
16 bytes                    ``balloonlab pfns`` and a line end
8 bytes                     number of pages
8 bytes                     number of runs, n
8 n bytes                   distances, in zigzag form, as 8 planes of n bytes:
                            all lowest bytes first, all highest bytes last
8 n bytes                   lengths less one, likewise
=========================== ================================================

Zigzag form puts the sign into the lowest bit (0, -1, 1, -2 become 0, 1, 2, 3), so that the
high planes are zero and cost nothing.
"""

from __future__ import annotations

import lzma

import numpy as np
import numpy.typing as npt

from .checks import as_pfns

MAGIC = b"balloonlab pfns\n"
HEADER_BYTES = len(MAGIC) + 16
PLANES = 8

PRESET = 6 | lzma.PRESET_EXTREME

_ONE, _SIGN = np.uint64(1), np.uint64(63)
_ALL = np.uint64(2**64 - 1)


def encode(pfns: npt.ArrayLike) -> bytes:
    """Write page numbers in few bytes; nothing is lost, neither order nor repetition.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Any values below 2**64, in any order.

    Returns
    -------
    bytes
        An xz file, as the module describes it.
    """
    pages = as_pfns(pfns)
    steps = np.diff(pages)
    # 1 up, 2 down, 0 neither.
    kind = (steps == _ONE) + 2 * (steps == _ALL).astype(np.int8)
    turns = np.zeros(kind.size, bool)
    turns[1:] = (kind[1:] != kind[:-1]) & (kind[:-1] != 0)
    first = np.flatnonzero(np.concatenate([[True], (kind == 0) | turns])[: pages.size])
    last = np.append(first[1:] - 1, pages.size - 1)[: first.size]
    lengths = pages[last] - pages[first]  # modulo 2**64: negative where the run goes down
    distances = (
        pages[first] - np.concatenate([np.zeros(1, np.uint64), pages[last][:-1]])[: first.size]
    )
    counts = np.array([pages.size, first.size], "<u8").tobytes()
    content = MAGIC + counts + _to_planes(distances) + _to_planes(lengths)
    return lzma.compress(content, preset=PRESET)


def decode(content: bytes) -> npt.NDArray[np.uint64]:
    """Read page numbers that `encode` has written.

    Raises
    ------
    ValueError
        The file is damaged, or no such file.
    """
    try:
        plain = lzma.decompress(content)
    except lzma.LZMAError as error:
        raise ValueError(f"not an xz file, or a damaged one: {error}") from None
    if not plain.startswith(MAGIC) or len(plain) < HEADER_BYTES:
        raise ValueError("an xz file, but not one of page numbers")
    n_pages, n_runs = np.frombuffer(plain, "<u8", 2, len(MAGIC)).tolist()
    if len(plain) != HEADER_BYTES + 2 * PLANES * n_runs:
        raise ValueError(f"{len(plain)} bytes are not what {n_runs} runs take")
    distances = _from_planes(plain[HEADER_BYTES : HEADER_BYTES + PLANES * n_runs])
    lengths = _from_planes(plain[HEADER_BYTES + PLANES * n_runs :])
    down = lengths >> _SIGN == _ONE
    sizes = np.where(down, _ALL - lengths + _ONE, lengths).astype(np.int64) + 1
    if sizes.sum() != n_pages:
        raise ValueError(f"runs hold {sizes.sum()} pages, not the {n_pages} that were written")
    first = np.cumsum(distances + np.concatenate([np.zeros(1, np.uint64), lengths[:-1]])[:n_runs])
    within = np.arange(n_pages, dtype=np.uint64)
    within -= np.repeat((np.cumsum(sizes) - sizes).astype(np.uint64), sizes)
    steps = np.where(down, _ALL, _ONE)
    return np.repeat(first, sizes) + within * np.repeat(steps, sizes)


def _to_planes(numbers: npt.NDArray[np.uint64]) -> bytes:
    zigzag = (numbers << _ONE) ^ np.where(numbers >> _SIGN == _ONE, _ALL, np.uint64(0))
    return zigzag.astype("<u8").view(np.uint8).reshape(-1, PLANES).T.tobytes()


def _from_planes(planes: bytes) -> npt.NDArray[np.uint64]:
    columns = np.frombuffer(planes, np.uint8).reshape(PLANES, -1).T
    zigzag = np.ascontiguousarray(columns).view("<u8")[:, 0].astype(np.uint64)
    return (zigzag >> _ONE) ^ np.where(zigzag & _ONE == _ONE, _ALL, np.uint64(0))
