"""Figures of several parts: the Axes for them, and what makes them one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .looks import DASH_LENGTH, GIVEN, style


def panels(
    n_rows: int,
    n_columns: int,
    share_y: bool = False,
    size: tuple[float, float] = (4.6, 3.2),
) -> Any:
    """Make Axes for a figure of several parts, each drawn with ``ax=``; then `join` them.

    Parameters
    ----------
    n_rows, n_columns : int
    share_y : bool
        Whether the Axes of a row have one scale.
    size : (float, float)
        Width and height of each part, in inches.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (n_rows * n_columns,)
        Row by row.
    """
    import matplotlib.pyplot as plt

    with style():
        width, height = size
        figure = plt.figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
        scales: Literal["row", "none"] = "row" if share_y else "none"
        return figure.subplots(n_rows, n_columns, sharey=scales, squeeze=False).ravel()


def join(axes: Any, titles: Sequence[str], title: str = "") -> Any:
    """Make panels that were drawn one figure: a title each, and one legend for all.

    Parameters
    ----------
    axes : array of matplotlib.axes.Axes
        What `panels` made, each drawn on.
    titles : sequence of str
        One for each of them.
    title : str
        Of the whole figure.

    Returns
    -------
    array of matplotlib.axes.Axes
        The same, with one scale of x where all have the same label of it.

    Raises
    ------
    ValueError
        There are more or fewer titles than Axes.

    Examples
    --------
    >>> from balloonlab import datasets, figures, load
    >>> run, axes = load(datasets.path("runs")), panels(1, 2)
    >>> for ax, y in zip(axes, ("page_ns", "n_kicks")):
    ...     drawn = figures.runs(run, y, ax=ax)
    >>> join(axes, ["time", "kicks"], "By run length")[0].get_title(loc="left")
    'time'
    """
    every = list(np.ravel(axes))
    if len(titles) != len(every):
        raise ValueError(f"titles must be one for each of {len(every)} Axes, got {len(titles)}")
    figure: Any = every[0].get_figure(root=True)
    ends = np.array([ax.get_xlim() for ax in every])
    handles: dict[str, Any] = {}
    alike = len({ax.get_xlabel() for ax in every}) == 1
    for ax in every:
        handles |= {handle.get_label(): handle for handle in _handles(ax)}
        if legend := ax.get_legend():
            legend.remove()
        if alike:
            ax.set_xlim(ends.min(), ends.max())
            if not ax.get_subplotspec().is_last_row():
                ax.set_xlabel("")
    with style():
        for ax, name in zip(every, titles, strict=True):
            ax.set_title(name)
        if title:
            figure.suptitle(title, fontsize=11)
        across = max(1, int(figure.get_figwidth() // 1.4))
        figure.legend(
            handles=list(handles.values()), loc="outside lower center", handlelength=DASH_LENGTH,
            ncols=min(across, -(-len(handles) // (1 + (len(handles) > across)))),
        )  # fmt: skip
    return axes


def _handles(ax: Any) -> list[Any]:
    """Return what the legend of an Axes explains, as it was given or, without it, drawn."""
    if known := GIVEN.pop(ax, {}).get("handles") or ax.get_legend_handles_labels()[0]:
        return list(known)
    return list(legend.legend_handles) if (legend := ax.get_legend()) else []
