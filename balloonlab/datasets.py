"""The data that come with balloonlab: ``data/`` of the tree, or what was packaged of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

__all__ = ["path", "published", "published_rates"]

PACKAGED = Path(__file__).parent / "data"
IN_TREE = Path(__file__).parents[1] / "data"


def path(name: str = "") -> Path:
    """Return the path of a file or folder of ``data/``.

    Parameters
    ----------
    name : str
        Relative to ``data/``; the folder itself by default.

    Raises
    ------
    FileNotFoundError
        There is none of that name.

    Examples
    --------
    >>> path("headline").name
    'headline'
    """
    for folder in (PACKAGED, IN_TREE):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"balloonlab comes with no data of the name {name!r}")


def published() -> pd.DataFrame:
    """Load the published inflation times of the 2016 series; their source is ``paper``.

    Returns
    -------
    pandas.DataFrame
        One row for each published time: ``source`` (always ``paper``), ``protocol``,
        ``stage`` (``total`` where only the sum is known), ``time_ms``,
        ``memory_bytes``, ``balloon_bytes``, ``n_kicks`` and ``wire_bytes`` and
        ``n_discards`` where they follow from the format, ``note``, ``reference``.

    Examples
    --------
    >>> published().groupby("protocol")["time_ms"].sum()["bitmap-v4"]
    np.float64(590.0)
    """
    return pd.read_csv(path("published.csv"))


def published_rates() -> pd.DataFrame:
    """Load the rates that HyperAlloc's authors published (EuroSys 2025); their source is ``paper``.

    Returns
    -------
    pandas.DataFrame
        One row for each system: ``source`` (always ``paper``), ``system``, GiB/s of reclaiming
        touched and untouched memory (``reclaim_gib_per_s``, ``reclaim_untouched_gib_per_s``), of
        returning it (``return_gib_per_s``) and of returning and touching it
        (``return_install_gib_per_s``), ``note``, ``reference``.

    Examples
    --------
    >>> published_rates().set_index("system")["reclaim_gib_per_s"]["virtio-balloon"]
    np.float64(0.951)
    """
    return pd.read_csv(path("published-rates.csv"))


def __dir__() -> list[str]:
    return __all__
