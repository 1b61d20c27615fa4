"""Figures of page sets: which pages they take, and how they fill a bitmap's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..measurement.options import check_number
from ..pages import as_pfns, metrics
from ..sizes import PAGE_BYTES, format_number, format_size
from .looks import beside, canvas
from .share_bars import Part, Sets, check_sets, draw_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_PAGES = 512
"""Pages in a row of the map: a huge page."""

GAP_ROWS = 6
"""White rows between two maps."""

TAKEN = ("#e9e9e9", "#16304f")
"""Colours of a page that is not in the set and of one that is."""

OCCUPANCY = (
    ("none", 0, 0, "white", ""),
    ("1 to 15", 1, 15, "#d3e3f3", ""),
    ("16 to 31", 16, 31, "#a9c9e8", "////"),
    ("32 to 47", 32, 47, "#6f9fce", ""),
    ("48 to 63", 48, 63, "#3f72ab", "xxxx"),
    ("all 64", 64, 64, "#16304f", ""),
)
"""Label, fewest and most bits set, colour and hatch: the darker the fuller."""


def patterns(sets: Sets, n_pages: int = 16_384, first_pfn: int = 0, ax: Axes | None = None) -> Axes:
    """Draw page sets as maps of memory, one below the other.

    Parameters
    ----------
    sets : mapping of str to array-like of int
        Page sets by name, from top to bottom. A name should carry its source, as in
        ``"aged (model)"``.
    n_pages, first_pfn : int
        How many pages are shown, 512 per row (2 MiB), from which one on.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        One pixel per page, dark where the set has it. Beside each map: the share of the shown
        pages that are taken, and the mean length of a run in the whole set, in pages.

    Raises
    ------
    TypeError, ValueError
        No sets, a page twice, or no page numbers.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    check_sets(sets)
    check_number("n_pages", n_pages, 1)
    check_number("first_pfn", first_pfn, 0)
    n_rows = -(-n_pages // ROW_PAGES)
    tops = (n_rows + GAP_ROWS) * np.arange(len(sets))
    picture = np.full((tops[-1] + n_rows, ROW_PAGES), np.nan)
    with canvas(ax, 7.2, 0.5 + 0.75 * len(sets)) as ax:
        for top, pfns in zip(tops, sets.values(), strict=True):
            shown = _map(pfns, first_pfn, n_pages)
            picture[top : top + n_rows] = shown
            frame = Rectangle((-0.5, top - 0.5), ROW_PAGES, n_rows, fill=False, linewidth=0.6)
            ax.add_patch(frame).set_clip_on(False)
            taken = format_number(float(100 * np.nanmean(shown)))
            note = f"{taken} % taken\nmean run {_mean_run(pfns)}"
            beside(ax, note, ROW_PAGES, top + n_rows / 2)
        ax.imshow(picture, cmap=ListedColormap(TAKEN), aspect="auto", interpolation="none")
        ax.set_yticks(tops + n_rows / 2, list(sets))
        ax.set_xticks(range(0, ROW_PAGES + 1, 64))
        ax.tick_params(axis="y", length=0)
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
        ax.set_xlabel("page in its row of 512 (2 MiB), rows downwards; dark: in the set")
        size = format_size(n_pages * PAGE_BYTES)
        which = f"first {size}" if first_pfn == 0 else f"{size} from page {first_pfn:,} on"
        ax.set_title(f"The guest's {which}, one pixel per page, by pattern")
    return ax


def occupancy(sets: Sets, ax: Axes | None = None) -> Axes:
    """Draw how full the words of page sets' bitmaps are, as stacked bars.

    Parameters
    ----------
    sets, ax
        As in `patterns`.

    Returns
    -------
    matplotlib.axes.Axes
        Shares of the words from the first page's to the last page's
        (`balloonlab.pages.metrics.word_occupancy`). Beside each bar: how many of the
        pages are in words that are neither full nor empty.

    Raises
    ------
    TypeError, ValueError
        As `patterns`.
    """
    check_sets(sets)
    frames = [metrics.word_occupancy(pfns) for pfns in sets.values()]
    parts = [
        Part(label, colour, hatch, [f["words_share"][fewest : most + 1].sum() for f in frames])
        for label, fewest, most, colour, hatch in OCCUPANCY
    ]
    mixed = [f"{format_number(100 * frame['pages_share'][1:64].sum())} %" for frame in frames]
    return draw_shares(
        list(sets),
        parts,
        mixed,
        ax,
        heading="pages in\nmixed words",
        xlabel="share of words, from the first page's to the last page's, any hole in RAM included",
        title="Bits set in a word of 64 pages, by pattern",
    )


def _map(pfns: npt.ArrayLike, first_pfn: int, n_pages: int) -> npt.NDArray[np.float64]:
    """Rows of `n_pages` pages from the first on: 1 in the set, 0 not, NaN beyond them."""
    beyond = np.full(-n_pages % ROW_PAGES, np.nan)
    taken = np.isin(np.arange(first_pfn, first_pfn + n_pages, dtype=np.uint64), as_pfns(pfns))
    return np.concatenate([taken, beyond]).reshape(-1, ROW_PAGES)


def _mean_run(pfns: npt.ArrayLike) -> str:
    runs = metrics.run_lengths(pfns)
    n_pages = (runs["run_pages"] * runs["n_runs"]).sum()
    return format_number(n_pages / max(1, runs["n_runs"].sum()))
