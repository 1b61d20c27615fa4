"""Every figure of the project, drawn from stored data alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import datasets
from ..measurement.store import load
from ..measurement.timelines import load_timeline
from ..pages import patterns as page_sets
from .comparison import density, grid, runs, sizes
from .headline_bars import headline, qemu_headline
from .how_it_works import page_strip
from .page_maps import occupancy, patterns
from .looks import save
from .lanes import timeline
from .guest_bars import guests, traces

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_MEMORY, DRAWN_BALLOON = "256MiB", "64MiB"
"""The guest of the pictured patterns, which show shapes and not sizes."""

QUANTITIES = {"time": "time_ns", "kicks": "n_kicks", "bytes": "wire_bytes", "calls": "n_discards"}


FIRST_US = 3000
"""How much is drawn of a timeline with many batches."""


class Entry(NamedTuple):
    """A figure: the folder of ``data/`` that it is made from, and how."""

    data: str
    draw: Callable[[pd.DataFrame], Axes]


FROM_RUNS: dict[str, Entry] = {
    "headline": Entry("headline", headline),
    "qemu": Entry("qemu", qemu_headline),
    "sizes-time": Entry("sizes", sizes),
    "sizes-rate": Entry("sizes", partial(sizes, y="rate")),
    "sizes-time-huge": Entry("sizes", partial(sizes, thp=True)),
    **{f"runs-{name}": Entry("runs", partial(runs, y=y)) for name, y in QUANTITIES.items()},
    **{
        f"density-{name}": Entry("density", partial(density, y=y)) for name, y in QUANTITIES.items()
    },
    "grid-idle": Entry("patterns", grid),
    "grid-random": Entry("patterns", partial(grid, pattern="random")),
    "grid-aged": Entry("patterns", partial(grid, pattern="aged")),
    "guests": Entry("guests", guests),
}
"""Figures of measured runs."""


def pictured() -> dict[str, npt.NDArray[np.uint64]]:
    """Make a small page set of every pattern; all of them are synthetic (``model``)."""
    names = ("idle", "random", "every:4", "geometric:8", "huge", "aged")
    return {f"{name} (model)": page_sets.make(name, DRAWN_MEMORY, DRAWN_BALLOON) for name in names}


COMPUTED: dict[str, Callable[[], Axes]] = {
    "patterns": lambda: patterns(pictured()),
    "occupancy": lambda: occupancy(pictured()),
    "strip": lambda: page_strip(range(100, 500)),
    "traces": traces,
    "timeline-pfn": lambda: timeline(load_timeline(datasets.path("timeline-pfn")), FIRST_US),
    "timeline-bitmap": lambda: timeline(load_timeline(datasets.path("timeline-bitmap"))),
}
"""Figures of synthetic page sets, of recorded ones, and of the recorded timelines."""


def draw_all(
    out: str | os.PathLike[str], run: str | os.PathLike[str] | None = None
) -> Iterator[tuple[str, str | None]]:
    """Draw every figure as SVG, PDF and PNG.

    Parameters
    ----------
    out : path-like
        Folder for the files, made if need be.
    run : path-like, optional
        A stored run of the user's to draw from; the data that come with balloonlab by
        default.

    Yields
    ------
    name : str
    problem : str or None
        Why the figure could not be drawn: the run holds no such cases.
    """
    import matplotlib.pyplot as plt

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    drawers: dict[str, Callable[[], Axes]] = {
        name: partial(_draw, entry, run) for name, entry in FROM_RUNS.items()
    }
    for name, drawer in (drawers | COMPUTED).items():
        try:
            ax = drawer()
        except (ValueError, FileNotFoundError) as error:
            yield name, str(error)
            continue
        save(ax, folder / name, ("svg", "pdf", "png"))
        plt.close(ax.get_figure(root=True))
        yield name, None


def _draw(entry: Entry, run: str | os.PathLike[str] | None) -> Axes:
    return entry.draw(load(datasets.path(entry.data) if run is None else run).frame)
