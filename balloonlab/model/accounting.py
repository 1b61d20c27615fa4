"""Messages as tables and calls: kicks, bytes, records, and what the host does with them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..executors import spread
from ..host import Policy
from ..pages import as_pfns, traces
from ..wire.bitmap import pack_windows, split
from ..wire.format import Buffer
from ..wire.registered import CODECS
from .counting import Host


def discards(stream: Iterable[Buffer], protocol: str) -> npt.NDArray[np.void]:
    """Return the ``madvise`` calls that the host device makes for a message.

    Runs the device's own kernel (`balloonlab.kernels.translate.translate`) on a memory map
    without memory behind it: nothing is discarded.

    Parameters
    ----------
    stream : iterable of bytes-like
        Buffers as `balloonlab.wire.encode` gives them, of pages below 2**36. Errors as
        `balloonlab.wire.decode`.
    protocol : str
        One of `balloonlab.wire.formats`, with the format's usual discard.

    Returns
    -------
    structured array of `balloonlab.wire.RANGE`
        The first page and the pages of each call, in the order of the calls. A call
        that reaches over the hole between 3 and 4 GiB goes on at 4 GiB.
    """
    # Ranges of a format that was registered are applied as those of bitmap-v4.
    wire_format = wire.get("bitmap-v4" if protocol in CODECS else protocol)
    decoded = [wire.decode([buffer], protocol) for buffer in stream]
    top = max((int((d["start_pfn"] + d["n_pages"]).max()) for d in decoded if d.size), default=0)
    host = Host(wire_format, Policy(wire_format.discard), top)
    calls = [call for ranges in decoded for call in host.calls(ranges)]
    found = np.concatenate([np.zeros((0, 2), np.int64), *calls])
    found[:, 0] = host.pfns(found[:, 0])
    return found.view(wire.RANGE)[:, 0]


def messages(pfns: npt.ArrayLike, protocols: Iterable[str] = ("pfn", "bitmap-v4")) -> pd.DataFrame:
    """Count the messages of formats for the same pages: nothing is measured.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Pages in the order the guest allocates them. Errors as `balloonlab.wire.encode`.
    protocols : iterable of str
        Of `balloonlab.wire.formats`.

    Returns
    -------
    pandas.DataFrame
        One row per format. ``kicks``: buffers; ``wire bytes``: all of them with their
        headers; ``records``: entries in them (a page number, a word, a block, a run, a segment);
        ``ranges``: what the host decodes; ``madvise calls``: see `discards`.

    Examples
    --------
    >>> messages(range(100, 500))["wire bytes"].to_dict()
    {'pfn': 1600, 'bitmap-v4': 56}
    >>> messages(range(100, 500), ["range-v6", "adaptive"])["wire bytes"].to_dict()
    {'range-v6': 8, 'adaptive': 8}
    """
    rows, pages = {}, as_pfns(pfns)
    for protocol in protocols:
        stream = wire.encode(pages, protocol)
        ranges = wire.decode(stream, protocol)
        rows[protocol] = {
            "kicks": len(stream),
            "wire bytes": sum(map(len, stream)),
            "records": _count_records(pages, stream, protocol) or len(ranges),
            "ranges": len(ranges),
            "madvise calls": len(discards(stream, protocol)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _count_records(pages: npt.NDArray[np.uint64], stream: list[bytes], protocol: str) -> int:
    """Count the records of a format; 0 where each is a range."""
    if protocol == "pfn" or protocol in CODECS:
        return 0
    if protocol == "bitmap-v4-posted":
        return len(wire.records(stream))
    return split(pack_windows(pages), wire.get(protocol).encoding)[1]


def trace_messages(
    patterns: Iterable[str], protocols: Iterable[str] = ("pfn", "bitmap-v4"), executor: Any = None
) -> pd.DataFrame:
    """Count the messages of many traces.

    Parameters
    ----------
    patterns : iterable of str
        Names of `balloonlab.traces.names`.
    protocols : iterable of str
        As in `messages`.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Where they are encoded; each trace is one piece of work.

    Returns
    -------
    pandas.DataFrame
        The columns of `messages`, by ``trace`` and ``protocol``.

    Examples
    --------
    >>> trace_messages(["idle-4GiB-85-inflate"])["kicks"].tolist()
    [3482, 1]
    """
    names, protocols = list(patterns), tuple(protocols)
    tables = spread(partial(_encode_trace, protocols=protocols), names, executor)
    return pd.concat(dict(zip(names, tables, strict=True)), names=["trace", "protocol"])


def _encode_trace(name: str, protocols: tuple[str, ...]) -> pd.DataFrame:
    return messages(traces.load(name), protocols)
