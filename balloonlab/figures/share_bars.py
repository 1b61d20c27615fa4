"""Shares that sum to one, a stacked bar for each of several page sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .looks import beside, canvas, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Part(NamedTuple):
    """A part of every bar: its label, colour and hatch, and its share of each."""

    label: str
    colour: str
    hatch: str
    shares: Sequence[float]


Sets: TypeAlias = Mapping[str, npt.ArrayLike]
"""Page sets by name."""


def check_sets(sets: Sets) -> Sets:
    """Return page sets, of which there must be one."""
    if not sets:
        raise ValueError("sets must hold at least one page set by name, got none")
    return sets


def draw_shares(
    names: Sequence[str], parts: Sequence[Part], notes: Sequence[str], ax: Axes | None, **texts: Any
) -> Axes:
    """Draw a bar for each name, from top to bottom, its note beside it.

    ``texts``: ``heading`` above the notes, ``xlabel`` and ``title``.
    """
    heading = texts.pop("heading")
    with canvas(ax, 7.2, 1.25 + 0.29 * len(names)) as ax:
        left = np.zeros(len(names))
        for label, colour, hatch, shares in parts:
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black"}
            ax.barh(range(len(names)), shares, left=left, label=label, clip_on=False, **look)
            left += shares
        for y, note in enumerate(notes):
            beside(ax, note, 1, y)
        beside(ax, heading, 1, 1, xycoords="axes fraction", va="bottom")
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.set(**texts)
        legend_below(ax)
    return ax
