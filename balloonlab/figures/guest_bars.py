"""Figures of real guests: how their pages are encoded, and what that costs in the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..measurement.frame import as_frame
from ..pages import metrics
from ..pages import traces as recorded
from ..sizes import format_number
from .share_bars import Part, Sets, check_sets, draw_shares
from .stage_bars import stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {
    "blocks_share": ("in blocks of 128 pages and more", "#16304f", ""),
    "full_words_share": ("in full words (blocks of 64)", "#6f9fce", "////"),
    "mixed_words_share": ("in mixed words (bitmaps)", "#e9e9e9", ""),
}
"""Column; label, colour and hatch: the darker the larger the piece."""


def largest() -> dict[str, npt.NDArray[np.uint64]]:
    """Load each state's last trace of an inflation of the largest guest and balloon."""
    frame = recorded.index().query("operation == 'inflate'")
    frame = frame.sort_values(["memory_bytes", "share", "cycle"])
    names = frame.drop_duplicates("state", keep="last").set_index("state")["name"]
    return {f"{name} (trace)": recorded.load(name) for name in names.sort_index()}


def traces(sets: Sets | None = None, ax: Axes | None = None) -> Axes:
    """Draw how ``bitmap-v4`` encodes the pages of real guests, as stacked bars.

    Parameters
    ----------
    sets, ax : optional
        As in `patterns`; by default the largest trace of each state that comes with balloonlab.

    Returns
    -------
    matplotlib.axes.Axes
        One bar per set, from the fewest pages in mixed words to the most. Beside each: mean bits
        set in a word that is not empty, and runs per GiB of balloon.

    Raises
    ------
    TypeError, ValueError
        As `patterns`.
    """
    chosen = check_sets(largest() if sets is None else sets)
    frame = metrics.encoding_summary(chosen).sort_values("mixed_words_share", ignore_index=True)
    pairs = zip(frame["bits_per_word"], frame["runs_per_gib"], strict=True)
    return draw_shares(
        frame["name"].tolist(),
        [Part(*look, frame[column].tolist()) for column, look in PARTS.items()],
        [f"{format_number(bits)} bits, {format_number(runs)} runs" for bits, runs in pairs],
        ax,
        heading="set bits per word,\nruns per GiB",
        xlabel="share of the balloon's pages",
        title="How bitmap-v4 encodes real guests' pages",
    )


def guests(frame: Any, ax: Axes | None = None) -> Axes:
    """Draw what inflating by the pages of real guests costs: stages by state and protocol.

    Parameters
    ----------
    frame : Run or pandas.DataFrame
        Cases whose pattern is a trace are drawn, one of each state, in ns per page: balloons
        differ in size.
    ax
        As in `stages`, whose result is returned.

    Raises
    ------
    ValueError
        `frame` holds no such cases, or several of a state.
    """
    frame = as_frame(frame)
    state = frame["pattern"].str.extract(rf"^{recorded.PREFIX}(\w+)-", expand=False)
    rows = frame.assign(state=state)[state.notna()]
    if rows.empty:
        raise ValueError("frame has not a single case whose pattern is a trace")
    return stages(rows, ["state", "protocol"], "Inflating by the pages of real guests", "page", ax)
