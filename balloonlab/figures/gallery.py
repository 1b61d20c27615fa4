"""Every figure of the project, drawn from stored data alone."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import datasets
from ..measurement.reading import load
from ..measurement.timelines import TIMELINE, load_timeline
from ..pages import patterns as page_sets
from .comparison import density, grid, runs, sizes
from .guest_bars import guests, traces
from .headline_bars import headline, qemu_headline
from .how_it_works import page_strip
from .lanes import timeline
from .lines import Quantity
from .looks import save
from .page_maps import occupancy, patterns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_MEMORY, DRAWN_BALLOON = "256MiB", "64MiB"
"""The guest of the pictured patterns, which show shapes and not sizes."""

QUANTITIES: dict[str, Quantity] = {
    "time": "time_ns",
    "kicks": "n_kicks",
    "bytes": "wire_bytes",
    "calls": "n_discards",
}

FIRST_US = 3000
"""Microseconds that are drawn of a timeline with many batches."""


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
    out: str | os.PathLike[str],
    run: str | os.PathLike[str] | None = None,
    only: Collection[str] = (),
) -> Iterator[tuple[str, str | None]]:
    """Draw every figure as SVG, PDF and PNG.

    Parameters
    ----------
    out : path-like
        Folder for the files, made if need be.
    run : path-like, optional
        A stored run or timeline of the user's: its figures alone are drawn. The data that come
        with balloonlab by default.
    only : collection of str
        Names of figures; all by default.

    Yields
    ------
    name : str
    problem : str or None
        Why the figure could not be drawn: the run holds no such cases.

    Raises
    ------
    ValueError
        A name in `only` is not that of a figure.
    OSError
        `run` holds neither a run nor a timeline, or `out` cannot be written. Nothing is drawn.
    """
    import matplotlib.pyplot as plt

    drawers = _shipped() if run is None else _of_run(Path(run))
    for name in only:
        if name not in drawers:
            nearest = difflib.get_close_matches(name, drawers, 3, 0) if drawers else []
            raise ValueError(f"only must name figures, got {name!r}; similar: {', '.join(nearest)}")
    folder = Path(out)
    if folder.is_file():
        raise NotADirectoryError(f"out must be a folder, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):  # can it be written? Known before anything is drawn
        pass
    for name, drawer in drawers.items():
        if only and name not in only:
            continue
        try:
            ax = drawer()
        except (ValueError, FileNotFoundError) as error:
            yield name, str(error)
            continue
        save(ax, folder / name, ("svg", "pdf", "png"))
        plt.close(ax.get_figure(root=True))
        yield name, None


def _shipped() -> dict[str, Callable[[], Axes]]:
    """Return a drawer for each figure of the data that come with balloonlab."""

    def draw(entry: Entry) -> Axes:
        return entry.draw(load(datasets.path(entry.data)).frame)

    return {name: partial(draw, entry) for name, entry in FROM_RUNS.items()} | COMPUTED


def _of_run(folder: Path) -> dict[str, Callable[[], Axes]]:
    """Return a drawer for each figure that a stored run, or a stored timeline, may give."""
    if (folder / TIMELINE).exists():
        return {"timeline": partial(timeline, load_timeline(folder))}
    frame = load(folder).frame
    return {name: partial(entry.draw, frame) for name, entry in FROM_RUNS.items()}
