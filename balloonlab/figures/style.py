"""One look for all figures, applied as a context and never at import."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHEET = Path(__file__).with_name("balloonlab.mplstyle")

LOOKS = {
    "allocate": ("a allocate", "#f2f2f2", ""),
    "send": ("b send", "#1f5a99", ""),
    "translate": ("c translate", "#e8a33d", "xxxx"),
    "discard": ("d discard", "#8fbbe0", "////"),
    "remainder": ("remainder", "black", ""),
    "total": ("not broken down", "white", "...."),
}
"""Label, colour and hatch of each stage: told apart by lightness and hatch without colour."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in balloonlab's style within the block."""
    import matplotlib.pyplot as plt

    # Loads the backend now: loaded within the block, a notebook's would have its
    # interactive mode undone at the end, and show no figure after the first.
    plt.draw_if_interactive()  # type: ignore[no-untyped-call]
    with plt.style.context(SHEET):
        yield


def panels(n_rows: int, n_columns: int, share_y: bool = False) -> Any:
    """Make Axes for a figure of several parts, each drawn with ``ax=``.

    Parameters
    ----------
    n_rows, n_columns : int
    share_y : bool
        Whether the Axes of a row have one scale.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (n_rows * n_columns,)
        Row by row.
    """
    import matplotlib.pyplot as plt

    size = (4.6 * n_columns, 3.2 * n_rows)
    with style():
        _, axes = plt.subplots(
            n_rows,
            n_columns,
            figsize=size,
            layout="constrained",
            sharey="row" if share_y else False,
            squeeze=False,
        )
    return axes.ravel()


METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
"""What is left out of a file, so that the same figure gives the same bytes."""


def save(
    ax: Any, stem: str | os.PathLike[str], endings: Iterable[str] = ("svg", "png")
) -> list[Path]:
    """Write an Axes' figure.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    stem : path-like
        Path without ending.
    endings : iterable of str
        Of ``svg``, ``pdf`` and ``png``.

    Returns
    -------
    list of pathlib.Path
        The files. The same figure gives the same bytes.
    """
    paths = []
    with style():
        for ending in endings:
            path = Path(f"{os.fspath(stem)}.{ending}")
            ax.figure.savefig(path, metadata=METADATA[ending])
            paths.append(path)
    return paths
