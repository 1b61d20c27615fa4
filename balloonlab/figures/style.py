"""One look for all figures, applied as a context and never at import."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


def save(ax: Any, stem: str | os.PathLike[str]) -> list[Path]:
    """Write an Axes' figure as SVG and PNG.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    stem : path-like
        Path without ending.

    Returns
    -------
    list of pathlib.Path
        The files. The same figure gives the same bytes.
    """
    paths = []
    with style():
        for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            path = Path(f"{os.fspath(stem)}.{ending}")
            ax.figure.savefig(path, metadata=metadata)
            paths.append(path)
    return paths
