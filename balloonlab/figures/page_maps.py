"""Figures of page sets: which pages they take, and how they fill a bitmap's words."""

from __future__ import annotations

import numpy as np

from ..measurement.options import check_number
from ..pages import as_pfns, metrics
from ..sizes import PAGE_BYTES, format_number, format_size
from .looks import Axes, beside, canvas
from .share_bars import Sets, check_sets

ROW_PAGES, GAP_ROWS = 512, 6
"""Pages in a row of the map, a huge page; white rows between two maps."""


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
    wanted = np.arange(first_pfn, first_pfn + n_pages, dtype=np.uint64)
    n_rows = -(-n_pages // ROW_PAGES)
    tops = (n_rows + GAP_ROWS) * np.arange(len(sets))
    picture = np.full((tops[-1] + n_rows, ROW_PAGES), np.nan)
    colours = ListedColormap(["#e9e9e9", "#16304f"])  # not in the set, in it
    with canvas(ax, 7.2, 0.5 + 0.75 * len(sets)) as ax:
        for top, pfns in zip(tops, sets.values(), strict=True):
            taken = np.isin(wanted, as_pfns(pfns))
            picture[top : top + n_rows].flat[:n_pages] = taken
            frame = Rectangle((-0.5, top - 0.5), ROW_PAGES, n_rows, fill=False, linewidth=0.6)
            ax.add_patch(frame).set_clip_on(False)
            lengths = metrics.run_lengths(pfns)
            mean_run = lengths["run_pages"] @ lengths["n_runs"] / max(1, lengths["n_runs"].sum())
            percent = format_number(float(100 * taken.mean()))
            note = f"{percent} % taken\nmean run {format_number(mean_run)}"
            beside(ax, note, ROW_PAGES, top + n_rows / 2)
        ax.imshow(picture, cmap=colours, aspect="auto", interpolation="none")
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
