"""Numbers published by others, from ``data/published.csv``; their source is ``paper``."""

from __future__ import annotations

from functools import cache

import pandas as pd

from ..shipped import shipped


@cache
def _table() -> pd.DataFrame:
    return pd.read_csv(shipped("published.csv"))


def published() -> pd.DataFrame:
    """Load the published inflation times of the 2016 series.

    Returns
    -------
    pandas.DataFrame
        One row for each published time: ``source`` (always ``paper``), ``protocol``,
        ``stage`` (``total`` where only the sum is known), ``time_ms``,
        ``memory_bytes``, ``balloon_bytes``, ``n_kicks`` and ``wire_bytes`` and
        ``n_discards`` where they follow from the format, ``note``, ``reference``.
    """
    return _table().copy()
