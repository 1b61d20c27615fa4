"""How page sets fill a bitmap: shares that sum to one, a stacked bar for each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..pages import metrics
from ..pages import traces as recorded
from ..sizes import format_number
from .looks import Axes, beside, canvas, legend_below
from .names import state_name

PARTS = {
    "blocks_share": ("in blocks of 128 pages and more", "#16304f", ""),
    "full_words_share": ("in full words (blocks of 64)", "#6f9fce", "////"),
    "mixed_words_share": ("in mixed words (bitmaps)", "#e9e9e9", ""),
}
"""Column; label, colour and hatch: the darker the larger the piece."""

OCCUPANCY = {
    ("none", "white", ""): (0, 0),
    ("1 to 15", "#d3e3f3", ""): (1, 15),
    ("16 to 31", "#a9c9e8", "////"): (16, 31),
    ("32 to 47", "#6f9fce", ""): (32, 47),
    ("48 to 63", "#3f72ab", "xxxx"): (48, 63),
    ("all 64", "#16304f", ""): (64, 64),
}
"""Label, colour and hatch, the darker the fuller; fewest and most bits set."""

Look: TypeAlias = tuple[str, str, str]


Sets: TypeAlias = Mapping[str, npt.ArrayLike]
"""Page sets by name."""


def check_sets(sets: Sets) -> Sets:
    """Return page sets, of which there must be one."""
    if not isinstance(sets, Mapping):
        how = "pass {'name': pfns}; balloonlab.figures.guests draws a run"
        raise TypeError(f"sets must map names to page sets, got {type(sets).__name__}: {how}")
    if not sets:
        raise ValueError("sets must hold at least one page set by name, got none")
    return sets


def draw_shares(
    shares: Mapping[Look, Sequence[float]], notes: Mapping[str, str], ax: Axes | None, **texts: str
) -> Axes:
    """Draw a bar of these shares for each name of a note, which stands beside it.

    ``texts``: ``heading`` above the notes, ``xlabel`` and ``title``.
    """
    names, heading = list(notes), texts.pop("heading")
    with canvas(ax, 7.2, 1.25 + 0.29 * len(names)) as ax:
        left = np.zeros(len(names))
        for (label, colour, hatch), lengths in shares.items():
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black"}
            ax.barh(range(len(names)), lengths, left=left, label=label, clip_on=False, **look)
            left += lengths
        for y, note in enumerate(notes.values()):
            beside(ax, note, 1, y)
        beside(ax, heading, 1, 1, xycoords="axes fraction", va="bottom")
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.set(**texts)
        legend_below(ax)
    return ax


def occupancy(sets: Sets, ax: Axes | None = None) -> Axes:
    """Draw how full the words of page sets' bitmaps are, as stacked bars.

    Parameters
    ----------
    sets, ax
        As in `patterns`; so are the errors.

    Returns
    -------
    matplotlib.axes.Axes
        Shares of the words from the first page's to the last page's
        (`balloonlab.pages.metrics.word_occupancy`). Beside each bar: how many of the
        pages are in words that are neither full nor empty.
    """
    check_sets(sets)
    frames = {name: metrics.word_occupancy(pfns) for name, pfns in sets.items()}
    percent = {name: 100 * frame["pages_share"][1:64].sum() for name, frame in frames.items()}
    return draw_shares(
        {
            look: [frame["words_share"][fewest : most + 1].sum() for frame in frames.values()]
            for look, (fewest, most) in OCCUPANCY.items()
        },
        {name: f"{format_number(mixed)} %" for name, mixed in percent.items()},
        ax,
        heading="pages in\nmixed words",
        xlabel="share of words, from the first page's to the last page's, any hole in RAM included",
        title="Bits set in a word of 64 pages, by pattern",
    )


def largest() -> dict[str, npt.NDArray[np.uint64]]:
    """Load each state's last trace of an inflation of the largest PC guest and balloon."""
    frame = recorded.index().query("operation == 'inflate' and guest == 'qemu'")
    frame = frame.sort_values(["memory_bytes", "share", "cycle"])
    names = frame.drop_duplicates("state", keep="last").set_index("state")["name"]
    return {state_name(state): recorded.load(name) for state, name in names.sort_index().items()}


def traces(sets: Sets | None = None, ax: Axes | None = None) -> Axes:
    """Draw how ``bitmap-v4`` encodes the pages of real guests, as stacked bars.

    Parameters
    ----------
    sets, ax : optional
        As in `patterns`; so are the errors. By default the largest trace of each state.

    Returns
    -------
    matplotlib.axes.Axes
        One bar per set, from the fewest pages in mixed words to the most. Beside each: mean bits
        set in a word that is not empty, and runs per GiB of balloon.
    """
    chosen = check_sets(largest() if sets is None else sets)
    frame = metrics.encoding_summary(chosen).sort_values("mixed_words_share", ignore_index=True)
    numbers = frame[["name", "bits_per_word", "runs_per_gib"]].to_numpy().tolist()
    return draw_shares(
        {look: frame[column].tolist() for column, look in PARTS.items()},
        {n: f"{format_number(bits)} bits, {format_number(runs)} runs" for n, bits, runs in numbers},
        ax,
        heading="set bits per word,\nruns per GiB",
        xlabel="share of the balloon's pages (trace)",
        title="How bitmap-v4 encodes real guests' pages",
    )
