"""Numbers published by others, from ``data/published.csv``; their source is ``paper``."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import pandas as pd


@cache
def _table() -> pd.DataFrame:
    packaged = resources.files("balloonlab") / "data" / "published.csv"
    in_tree = Path(__file__).parents[2] / "data" / "published.csv"
    with (packaged if packaged.is_file() else in_tree).open() as file:
        return pd.read_csv(file)


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
