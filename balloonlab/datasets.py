"""The data that come with balloonlab: ``data/`` of the tree, or what was packaged of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

__all__ = ["path", "published", "published_rates", "stacked"]

PACKAGED = Path(__file__).parent / "data"
IN_TREE = Path(__file__).parents[1] / "data"
_FIRST: list[Path] = []


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
    for folder in (*_FIRST, PACKAGED, IN_TREE):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"balloonlab comes with no data of the name {name!r}")


@contextmanager
def first(folder: Path) -> Iterator[None]:
    """Take what a folder has from there, such as a campaign that is to become the next data."""
    _FIRST.insert(0, folder)
    try:
        yield
    finally:
        _FIRST.pop(0)


def stacked(pattern: str, name: str) -> pd.DataFrame:
    """Load a table of several folders of ``data/``, one below the other.

    Parameters
    ----------
    pattern : str
        Which folders, as a shell has it: a measurement, or kinds of one.
    name : str
        The table, a CSV file in each of them.

    Returns
    -------
    pandas.DataFrame
        Their rows, and ``folder``, which each is of; ``start`` is 0 in a folder that has but one.

    Examples
    --------
    >>> stacked("give-back*", "give-back.csv")["folder"].unique().tolist()[:2]
    ['give-back', 'give-back-kept']
    """
    found = sorted(folder for folder in path().glob(pattern) if (folder / name).exists())
    if not found:
        raise FileNotFoundError(f"balloonlab comes with no {name} in folders {pattern!r}")
    tables = [pd.read_csv(folder / name, na_filter=False) for folder in found]
    tables = [table if "start" in table else table.assign(start=0) for table in tables]
    names = [folder.name for folder in found]
    return pd.concat(tables, keys=names, names=["folder"]).reset_index("folder", drop=False)


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
