"""Figures of real guests: what they tell, and what that costs in the laboratory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..pages import metrics
from ..pages import traces as recorded
from .stage_bars import stages
from .looks import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = (
    ("blocks_share", "in blocks of 128 pages and more", "#16304f", ""),
    ("full_words_share", "in full words (blocks of 64)", "#6f9fce", "////"),
    ("mixed_words_share", "in mixed words (bitmaps)", "#e9e9e9", ""),
)
"""Column, label, colour and hatch: the darker the larger the piece."""


def largest() -> dict[str, npt.NDArray[np.uint64]]:
    """Load a trace of each state that comes with balloonlab: the largest guest and balloon.

    Of a state that was inflated several times, the last time.
    """
    frame = recorded.index().query("operation == 'inflate'")
    frame = frame.sort_values(["memory_bytes", "share", "cycle"])
    names = frame.drop_duplicates("state", keep="last").set_index("state")["name"]
    return {f"{name} (trace)": recorded.load(name) for name in names.sort_index()}


def traces(sets: Mapping[str, npt.ArrayLike] | None = None, ax: Axes | None = None) -> Axes:
    """Draw how ``bitmap-v4`` tells the pages of real guests, as stacked bars.

    Parameters
    ----------
    sets : mapping of str to array-like of int, optional
        Page sets by name; by default the largest trace of each state (`largest`). A name should
        carry its source, as in ``"idle-8GiB-85-inflate (trace)"``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        A bar a set, from the fewest pages in mixed words to the most. Beside each bar: mean bits
        set in a word that is not empty, and runs for each GiB of the balloon.

    Raises
    ------
    TypeError, ValueError
        No sets, a page twice, or no page numbers.
    """
    import matplotlib.pyplot as plt

    chosen = largest() if sets is None else sets
    if not chosen:
        raise ValueError("sets must hold at least one page set by name, got none")
    frame = metrics.encoding_summary(chosen).sort_values("mixed_words_share", ignore_index=True)
    with style():
        if ax is None:
            _, ax = plt.subplots(figsize=(7.2, 1.3 + 0.28 * len(frame)), layout="constrained")
        left = np.zeros(len(frame))
        for column, label, colour, hatch in PARTS:
            share = frame[column].to_numpy()
            bars = ax.barh(range(len(frame)), share, left=left, color=colour, hatch=hatch)
            bars.set_label(label)
            for bar in bars:
                bar.set(edgecolor="black", clip_on=False)
            left += share
        for y, row in enumerate(frame.to_dict("records")):
            runs = row["runs_per_gib"]
            n_runs = f"{runs:,.0f}" if runs >= 10 else f"{runs:.2g}"
            text = f"{row['bits_per_word']:.3g} bits, {n_runs} runs"
            ax.annotate(text, (1, y), (6, 0), textcoords="offset points", va="center")
        ax.annotate(
            "set bits a word,\nruns a GiB",
            (1, 1),
            (6, 4),
            xycoords="axes fraction",
            textcoords="offset points",
        )
        ax.set_yticks(range(len(frame)), frame["name"])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.set_xlabel("share of the balloon's pages")
        ax.set_title("How bitmap-v4 tells real guests' pages")
        ax.legend(loc="upper center", bbox_to_anchor=(0.3, 0), borderaxespad=4.5, ncols=3)
    return ax


def guests(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what the pages of real guests cost, by state and protocol, as stacked stages.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy frame; cases whose pattern is a trace are drawn, one of each state.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        As `balloonlab.figures.stages`.

    Raises
    ------
    ValueError
        `frame` holds no such cases, or several of a state.
    """
    state = frame["pattern"].str.extract(rf"^{recorded.PREFIX}(\w+)-", expand=False)
    rows = frame.assign(state=state)[state.notna()]
    if rows.empty:
        raise ValueError("frame has not a single case whose pattern is a trace")
    rows = rows.sort_values(["state", "protocol"], ascending=[True, False], kind="stable")
    return stages(rows, ["state", "protocol"], "Pages of real guests, page by page and in bulk", ax)
