"""How many times as long one protocol takes as another, with the interval of each ratio."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..measurement.tables import check_columns
from ..sizes import format_measured, format_size
from .looks import Axes, NoCasesError, beside, canvas, name_bars
from .names import pattern_name


def ratios(
    table: pd.DataFrame, by: str = "pattern", title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw ratios with their intervals, a line each, and which are told apart from the largest.

    Parameters
    ----------
    table : pandas.DataFrame
        What `balloonlab.ratios` returned, of one protocol over another; drawn in its order.
    by : str
        The column in which its rows differ.
    title : str
        What is compared.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A point on each interval; filled where the interval overlaps with that of the largest
        ratio, so that the two are not told apart.

    Raises
    ------
    ValueError
        A column is missing; no rows; rows of several protocols.

    Examples
    --------
    >>> import balloonlab as bl
    >>> table = bl.ratios(bl.load(bl.datasets.path("runs")), over="bitmap-v4")
    >>> len(ratios(table).texts)
    7
    """
    check_columns(table, [by, "protocol", "ratio", "low", "high"], "table", "ratios")
    if table.empty:
        raise NoCasesError("table must have rows to be drawn, and has none")
    if len(set(table["protocol"])) > 1:
        names = ", ".join(table["protocol"].unique())
        raise ValueError(f"table must have ratios of one protocol, got {names}: select one")
    largest = table.loc[table["ratio"].idxmax()]
    alike = table["high"] >= largest["low"]
    with canvas(ax, 6.4, 1.0 + 0.3 * len(table)) as ax:
        for y, (row, like) in enumerate(zip(table.to_dict("records"), alike, strict=True)):
            ax.plot([row["low"], row["high"]], [y, y], "k|-", linewidth=1)
            face = "#16304f" if like else "white"
            ax.plot(row["ratio"], y, "o", mfc=face, mec="black")
            low, middle, high = (format_measured(row[end]) for end in ("low", "ratio", "high"))
            beside(ax, f"{middle} ({low} to {high})", row["high"], y)
        name_bars(ax, [_name(value) for value in table[by]])
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xlim(0, np.ceil(table["high"].max()) * 1.3)
        ax.set_xlabel(f"times as long with {largest['protocol']} (1: alike)")
        ax.set_title(f"{title}\n(filled: not told apart from the largest)".lstrip())
    return ax


def _name(value: object) -> str:
    if isinstance(value, str):
        return pattern_name(value)
    return format_size(int(value)) if isinstance(value, int | np.integer) else f"{value}"
