"""The data that come with balloonlab: ``data/`` of the tree, or what was packaged of it."""

from __future__ import annotations

from pathlib import Path

from .measure import Run
from .store import META, TIMINGS, load, pool

PACKAGED = Path(__file__).parents[1] / "data"
IN_TREE = Path(__file__).parents[2] / "data"


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


def load_shipped(*names: str) -> Run:
    """Load a run that comes with balloonlab; ``data/README.md`` says what each holds.

    Parameters
    ----------
    *names : str
        Its folder in ``data/``: ``"headline"``, ``"sizes"``, ... Several are put into one frame.

    Returns
    -------
    Run
        As `balloonlab.lab.load`; of several names as `balloonlab.lab.pool`.

    Raises
    ------
    FileNotFoundError
        There is no run of that name; the message lists those that there are.
    """
    runs = {
        file.parent.name
        for folder in (PACKAGED, IN_TREE)
        for file in folder.glob(f"*/{TIMINGS}")
        if (file.parent / META).exists()
    }
    for name in names:
        if name not in runs:
            listed = ", ".join(sorted(runs))
            raise FileNotFoundError(f"balloonlab comes with no run {name!r}, only with {listed}")
    return load(shipped(names[0])) if len(names) == 1 else pool(map(shipped, names))
