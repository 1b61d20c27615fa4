"""Every figure of the project, drawn from stored data alone."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import datasets
from ..harness import counted
from ..ladder import SCENARIOS
from ..measurement.ratio import ratios as measured_ratios
from ..measurement.reading import load, pool
from ..measurement.timelines import TIMELINE, load_timeline
from ..model import validated
from ..pages import patterns as page_sets
from ..sizes import HUGE_BYTES
from .comparison import density, grid, guests, runs, sizes
from .crossover_map import crossover
from .encoding_dots import encodings
from .freed_bars import frees, give_back
from .headline_bars import headline
from .how_it_works import page_strip
from .impact_lines import impact
from .ladder_bars import ladder
from .lanes import timeline
from .lines import Quantity
from .looks import Axes, NoCasesError, save
from .page_maps import patterns
from .policy_dots import policies
from .predicted import validation
from .ratio_dots import ratios
from .share_bars import occupancy, traces
from .since_bars import since_2016

QUANTITIES: dict[str, Quantity] = {
    "time": "time_ns",
    "kicks": "n_kicks",
    "bytes": "wire_bytes",
    "calls": "n_discards",
}


def _guest_ratios(frame: pd.DataFrame) -> Axes:
    """Draw how many times as long ``pfn`` takes as ``bitmap-v4`` on recorded guests' pages."""
    rows = frame[frame["pattern"].str.startswith("trace:")]
    if rows.empty:
        raise NoCasesError("frame must have cases whose pattern is a trace, and has none")
    table = measured_ratios(rows, over="bitmap-v4", by="pattern")
    return ratios(table, title="Real guests' pages: pfn over bitmap-v4")


FROM_RUNS: dict[str, tuple[str, Callable[[pd.DataFrame], Axes]]] = {
    "headline": ("headline", headline),
    "kvm": ("kvm", partial(headline, source="kvm")),
    "qemu": ("qemu", partial(headline, source="qemu")),
    "linux": ("linux", partial(headline, source="linux")),
    "sizes-time": ("sizes", sizes),
    "sizes-rate": ("sizes", partial(sizes, y="rate")),
    "sizes-time-huge": ("sizes", partial(sizes, thp=True)),
    **{f"runs-{name}": ("runs", partial(runs, y=y)) for name, y in QUANTITIES.items()},
    **{f"density-{name}": ("density", partial(density, y=y)) for name, y in QUANTITIES.items()},
    "grid-idle": ("patterns", grid),
    "grid-random": ("patterns", partial(grid, pattern="random")),
    "grid-aged": ("patterns", partial(grid, pattern="aged")),
    "guests": ("guests", guests),
    "guests-ratio": ("guests", _guest_ratios),
    "policies": ("policies", policies),
    **{
        f"ladder-{name.replace(', ', '-').replace(' ', '-')}": (
            "ladder*",
            partial(ladder, scenario=name),
        )
        for name in SCENARIOS
    },
}
"""Figures of measured runs: what of ``data/`` each is made from, and how."""


def pictured() -> dict[str, npt.NDArray[np.uint64]]:
    """Make a page set of every pattern, all synthetic (``model``): small, to show their shapes."""
    names = ("idle", "random", "every:4", "geometric:8", "huge", "aged")
    return {f"{name} (model)": page_sets.make(name, "256MiB", "64MiB") for name in names}


def _measured_crossover(source: str) -> Axes:
    frame = load(datasets.path("crossover")).frame
    return crossover(frame[frame["source"] == source], "time_ns")


COMPUTED: dict[str, Callable[[], Axes]] = {
    "since-2016": lambda: since_2016()[0],  # one of its Axes is enough to save it
    "patterns": lambda: patterns(pictured()),
    "occupancy": lambda: occupancy(pictured()),
    "strip": lambda: page_strip(range(100, 500)),
    "traces": traces,
    "frees-small": lambda: frees(datasets.stacked("frees", "frees.csv")),
    "frees-huge": lambda: frees(datasets.stacked("frees", "frees.csv"), HUGE_BYTES),
    "give-back": lambda: give_back(datasets.stacked("give-back*", "give-back.csv")),
    "impact": lambda: impact(pd.read_csv(datasets.path("impact/impact.csv"))),
    "validation": lambda: validation(validated()),
    "encodings": lambda: encodings(pd.read_csv(datasets.path("encodings/encodings.csv"))),
    "crossover-bytes": lambda: crossover(counted()),
    **{f"crossover-{source}": partial(_measured_crossover, source) for source in ("lab", "kvm")},
    # Of its many batches those of the first 3 ms.
    "timeline-pfn": lambda: timeline(load_timeline(datasets.path("timeline-pfn")), until_us=3000),
    "timeline-bitmap": lambda: timeline(load_timeline(datasets.path("timeline-bitmap"))),
}
"""Figures of several folders, of synthetic page sets, of recorded ones, of timelines."""


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
    name, problem : str, str or None
        Why the figure could not be drawn: the run holds no such cases.

    Raises
    ------
    ValueError, OSError
        A name in `only` is not that of a figure; `run` holds neither a run nor a timeline, or
        `out` cannot be written. Nothing is drawn.
    """
    import matplotlib.pyplot as plt

    drawers = _drawers(None if run is None else Path(run))
    for name in (name for name in only if name not in drawers):
        nearest = ", ".join(difflib.get_close_matches(name, drawers, 3, 0))
        raise ValueError(f"only must name figures, got {name!r}; similar: {nearest}")
    folder = Path(out)
    if folder.is_file():
        raise NotADirectoryError(f"out must be a folder, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):  # can it be written? Known before anything is drawn
        pass
    for name in (name for name in drawers if not only or name in only):
        try:
            ax = drawers[name]()
        except NoCasesError:
            yield name, "the run has no such cases"
            continue
        except (ValueError, FileNotFoundError) as error:
            yield name, str(error)
            continue
        save(ax, folder / name, ("svg", "pdf", "png"))
        plt.close(ax.get_figure(root=True))
        yield name, None


def _shipped(data: str) -> pd.DataFrame:
    """Return the frame of a folder of ``data/``, or of several starts of one campaign."""
    if data.endswith("*"):
        return pool(sorted(datasets.path().glob(data))).frame
    return load(datasets.path(data)).frame


def _drawers(run: Path | None) -> dict[str, Callable[[], Axes]]:
    """Return a drawer for each figure of a stored run or timeline, or of balloonlab's data."""
    if run is not None and (run / TIMELINE).exists():
        return {"timeline": partial(timeline, load_timeline(run))}
    frame = None if run is None else load(run).frame

    def drawn(data: str, draw: Callable[[pd.DataFrame], Axes]) -> Axes:
        return draw(_shipped(data) if frame is None else frame)

    of_runs = {name: partial(drawn, *entry) for name, entry in FROM_RUNS.items()}
    return of_runs | (COMPUTED if run is None else {})
