"""Inflations that nobody measured, as tidy frames: their source is ``model``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from .. import wire
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..measurement.case import CUSTOM
from ..measurement.options import TABLE
from ..measurement.tables import COLUMNS
from ..sizes import PAGE_BYTES, Size, parse_size
from ..wire.pfn import PFN32_LIMIT
from .cost import CASE, CostModel
from .counting import counts as count_pages


def forecast(
    model: CostModel,
    counts: Mapping[str, int],
    memory: Size,
    protocol: str,
    pattern: str = CUSTOM,
    touched: bool = True,
    thp: bool = False,
) -> pd.DataFrame:
    """Predict the stages of an inflation whose counts are known.

    Parameters
    ----------
    model : CostModel
    counts : mapping
        As `balloonlab.model.counts` and `balloonlab.model.idle_counts` return them.
    memory, protocol, touched, thp
        As in `balloonlab.measure`, with the format's usual discard.
    pattern : str
        What to call the pages in the frame.

    Returns
    -------
    pandas.DataFrame
        The columns of a measured frame, in one repeat. ``source`` is ``model``; there is no
        remainder, which is not predicted. Errors as `CostModel.predict`.

    Examples
    --------
    >>> from balloonlab import datasets, load
    >>> from balloonlab.model import counts, fit
    >>> sizes = fit(load(datasets.path("sizes")))
    >>> forecast(sizes, counts(range(4096), "pfn"), "64MiB", "pfn")["stage"].tolist()[:2]
    ['allocate', 'send']
    """
    memory_bytes, discard = parse_size(memory, "memory"), wire.get(protocol).discard
    values = (protocol, discard, "inflate", touched, thp)
    case = dict(zip(CASE, values, strict=True))
    about = {
        "run_id": f"{protocol} {pattern} {memory_bytes} {counts['n_pages']} {touched} {thp}",
        "negotiated_protocol": protocol,
        "n_bitmaps": MAX_BITMAPS if protocol != "pfn" else 0,
        "pattern": pattern,
        "memory_bytes": memory_bytes,
        "balloon_bytes": counts["n_pages"] * PAGE_BYTES,
        "repeat": 0,
    }
    usual = {str(row.column): row.default for row in TABLE.values()}
    return model.predict(case, counts).assign(**usual | case | about, **counts)[COLUMNS]


def idle_guests(
    model: CostModel,
    memory: Sequence[Size],
    protocol: Sequence[str] = ("pfn", "bitmap-v4"),
    touched: Sequence[bool] = (True,),
    thp: Sequence[bool] = (False,),
) -> pd.DataFrame:
    """Predict inflations of idle guests by 7/8 of their memory, of any size.

    Messages are counted exactly (`balloonlab.model.idle_counts`); their costs are the model's,
    those of the sizes that it was fitted to. ``pfn`` ends with guests of 16 TiB, whose page
    numbers just fit 32 bits; larger ones are left out for it.

    Parameters
    ----------
    model : CostModel
    memory, protocol, touched, thp : sequences
        Every combination is predicted; ValueError where none is left.

    Returns
    -------
    pandas.DataFrame
        As `forecast`, a ``run_id`` per case.
    """
    frames = [
        forecast(model, count_pages("idle", name, memory=size), size, name, "idle", backed, huge)
        for size, name, backed, huge in product(memory, protocol, touched, thp)
        if name != "pfn" or parse_size(size, "memory") <= PFN32_LIMIT * PAGE_BYTES
    ]
    if not frames:
        rule = "must leave at least one case: pfn ends at 16 TiB"
        raise ValueError(f"memory, protocol, touched and thp {rule}")
    return pd.concat(frames, ignore_index=True)
