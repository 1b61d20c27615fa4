"""The data that come with balloonlab: ``data/`` of the tree, or what was packaged of it."""

from __future__ import annotations

from pathlib import Path

PACKAGED = Path(__file__).parent / "data"
IN_TREE = Path(__file__).parents[1] / "data"


def shipped(name: str = "") -> Path:
    """Find a file or folder of ``data/``.

    Parameters
    ----------
    name : str
        Relative to ``data/``; the folder itself by default.

    Raises
    ------
    FileNotFoundError
        There is none of that name.
    """
    for folder in (PACKAGED, IN_TREE):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"balloonlab comes with no data of the name {name!r}")
