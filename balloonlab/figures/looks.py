"""One look for all figures, applied as a context and never at import."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from ..sizes import PAGE_BYTES, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
else:  # annotations alone do not load matplotlib
    Axes = Any

SHEET = Path(__file__).with_name("balloonlab.mplstyle")

LOOKS = {
    "allocate": ("a allocate", "#f2f2f2", ""),
    "release": ("a release", "#f2f2f2", ""),
    "send": ("b send", "#1f5a99", ""),
    "translate": ("c translate", "#e8a33d", "xxxx"),
    "discard": ("d discard", "#8fbbe0", "////"),
    "remainder": ("remainder", "black", ""),
    "total": ("not broken down", "white", "...."),
}
"""Label, colour and hatch of each stage: distinct in lightness and hatch without colour."""

SOURCES = {"lab": ("#1f5a99", "o"), "kvm": ("#e8a33d", "s"), "linux": ("black", "D")}
"""Colour and marker of each source that stands beside others in a figure."""

PROTOCOLS = {"pfn": ("#16304f", "o"), "bitmap-v4": ("#c0762a", "s")}
"""Colour and marker of the protocols that most figures compare, measured or predicted alike."""

PFN_END_BYTES, PFN_END_TEXT = PAGE_BYTES << 32, "pfn ends: 32 bits"
"""Memory that page numbers of 32 bits reach, and how its end is marked."""

DASH_LENGTH = 3.2
"""Length of a line in a legend, in font sizes: shorter, its dashes are behind the marker."""

GIVEN: WeakKeyDictionary[Axes, dict[str, Any]] = WeakKeyDictionary()
"""Axes of a figure that was there before, each with the options of its legend below."""


class NoCasesError(ValueError):
    """A frame without the cases that a figure draws."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in balloonlab's style within the block."""
    import matplotlib.pyplot as plt

    # Loads the backend now: loaded within the block, a notebook's would have its
    # interactive mode undone at the end, and show no figure after the first.
    plt.draw_if_interactive()  # type: ignore[no-untyped-call]
    with plt.style.context(SHEET):
        yield


@contextmanager
def canvas(ax: Axes | None, width: float, height: float) -> Iterator[Axes]:
    """Yield the Axes to draw on, in balloonlab's style: the user's, or those of a new figure.

    A new figure is `width` by `height` inches. In the user's, texts are fitted to the Axes and,
    where it has no layout engine, room is made for what stands beside them.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes | None):
        raise TypeError(f"ax must be one matplotlib Axes, got {type(ax).__name__}: pass one")
    with style():
        if ax is None:
            yield plt.subplots(figsize=(width, height), layout="constrained")[1]
            return
        figure: Any = ax.get_figure(root=True)
        if _is_fixed(figure.get_layout_engine()):
            yield ax
            return
        GIVEN[ax] = {}
        yield ax
        drawn = [one for one in figure.axes if one in GIVEN]  # the earlier ones: narrower by now
        legends = [one.get_legend() for one in drawn if GIVEN[one]]
        for legend in filter(None, legends):
            legend.set_in_layout(False)  # or it would make the Axes narrower still
        _lay_out(ax, figure)
        for one in drawn:
            _fit(one)
        _lay_out(ax, figure)


def _is_fixed(engine: object) -> bool:
    """Whether a figure is to keep its margins (with constrained layout switched off, too)."""
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    return isinstance(engine, PlaceHolderLayoutEngine) and not engine.adjust_compatible


def _lay_out(ax: Axes, figure: Any) -> None:
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    engine = figure.get_layout_engine()
    tightened = isinstance(engine, PlaceHolderLayoutEngine)  # by an earlier call
    if (engine is None or tightened) and ax.get_subplotspec() is not None:
        figure.tight_layout()
    else:
        figure.draw_without_rendering()


def _fit(ax: Axes) -> None:
    """Make an Axes' title, label of x and legend no wider than it; values end in its frame."""
    from matplotlib.text import Annotation, Text

    width, end = ax.bbox.width, ax.get_xlim()[1]
    title, label = ax.get_title(loc="left"), ax.xaxis.label
    titles = [part for part in ax.get_children() if isinstance(part, Text)]
    for text in (label, *(part for part in titles if part.get_text() == title)):
        lines = text.get_text().splitlines()
        for n_characters in range(max(map(len, lines), default=0), 8, -1):
            if text.get_window_extent().width <= width:
                break
            text.set_text("\n".join(fill(line, n_characters) for line in lines))
    for text in ax.texts:  # as `beside` makes them
        if isinstance(text, Annotation) and text.anncoords == "offset points":
            room = width - text.get_window_extent().width - 10
            if text.xycoords == "data" and text.xy[0] < end and room > 0:
                ax.set_xlim(right=max(ax.get_xlim()[1], text.xy[0] * width / room))
    if options := dict(GIVEN[ax]):
        options["borderaxespad"] += 1.2 * label.get_text().count("\n")
        for n_columns in range(options.pop("ncols"), 0, -1):
            legend = ax.legend(ncols=n_columns, **options)
            if legend.get_window_extent().width <= width:
                break


def log_numbers(ax: Axes) -> None:
    """Make x logarithmic, with ticks that are written in full."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_number(x)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def mark_limit(ax: Axes, x: float, text: str) -> None:
    """Draw a line where something ends, with a text at its left."""
    ax.axvline(x, color="black", linestyle=(0, (1, 2)), linewidth=1)
    place: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (x, 0.03), (-4, 0), ha="right", va="bottom", size=8, **place)


def check_cases(
    frame: pd.DataFrame,
    columns: Sequence[str],
    argument: str,
    of: str = "",
    drawn: Sequence[str] = ("time_ns",),
) -> None:
    """Refuse a frame without these columns or rows, or with several cases where one is drawn."""
    needed = (*columns, "run_id", "repeat", "stage", *drawn)
    missing = [name for name in needed if name not in frame.columns]
    if missing or frame.empty:
        what = f"the columns {', '.join(missing)}" if missing else f"rows{of}"
        kind = ValueError if missing else NoCasesError
        raise kind(f"frame must have {what} to be drawn, and has not")
    n_cases = frame.groupby([*columns], sort=False)["run_id"].nunique()
    if (n_cases > 1).any():
        values = n_cases[n_cases > 1].index.to_frame().iloc[0]
        raise ValueError(
            f"frame holds several cases for {', '.join(columns)} = {', '.join(map(str, values))}: "
            f"select one, or name the columns in which they differ in {argument}="
        )


def name_bars(ax: Axes, names: Sequence[str], room: float = 0.6) -> None:
    """Name horizontal bars, one per line from top to bottom, with room above and below."""
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 1 + room, -room)


def stack(ax: Axes, y: float, stages: Mapping[str, float]) -> float:
    """Draw a stacked bar, stage by stage; return its length."""
    left = 0.0
    for stage, (_, colour, hatch) in LOOKS.items():
        if width := stages.get(stage, 0.0):
            ax.barh(y, width, left=left, color=colour, hatch=hatch, edgecolor="black")
            left += width
    return left


def explain_stages(ax: Axes, stages: Iterable[str]) -> None:
    """Put the legend of stages below the axis' label, however few the bars."""
    from matplotlib.patches import Patch

    shown = [LOOKS[stage] for stage in LOOKS if stage in set(stages)]
    handles = [Patch(facecolor=c, hatch=h, edgecolor="black", label=name) for name, c, h in shown]
    legend_below(ax, handles=handles)


def rank(value: Any) -> Any:
    """Order cases and series: what was measured, ``pfn`` and untouched memory come first."""
    if not isinstance(value, str):
        return value
    numbers = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", value)]
    return (value in ("model", "touched"), value != "pfn", numbers)


def legend_below(ax: Axes, n_columns: int = 6, **options: Any) -> None:
    """Put the legend below the axis' label: its distance is in font sizes, not in axes."""
    look = {"loc": "upper center", "bbox_to_anchor": (0.4, 0), "borderaxespad": 4.5}
    look |= {"ncols": n_columns, **options}
    ax.legend(**look)
    if ax in GIVEN:
        GIVEN[ax] = look


def beside(ax: Axes, text: str, x: float, y: float, **options: Any) -> None:
    """Write a text to the right of where a bar ends."""
    look = {"textcoords": "offset points", "va": "center", "annotation_clip": False, **options}
    ax.annotate(text, (x, y), (5, 0), **look)


Ending: TypeAlias = Literal["svg", "pdf", "png"]

METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
"""What is left out of a file, so that the same figure gives the same bytes."""


def save(
    ax: Any, stem: str | os.PathLike[str], endings: Iterable[Ending] = ("svg", "png")
) -> list[Path]:
    """Write an Axes' figure.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or array of them
        Of one figure.
    stem : path-like
        Path without ending.
    endings : iterable of {"svg", "pdf", "png"}

    Returns
    -------
    list of pathlib.Path
        The files, each whole or left as it was. The same figure gives the same bytes.

    Raises
    ------
    TypeError, ValueError, OSError
        `ax` is something else, or of several figures; an ending is unknown; a full disk, say.

    Examples
    --------
    >>> import tempfile
    >>> from balloonlab.figures import page_strip
    >>> ax = page_strip(range(128, 448))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(ax, f"{folder}/strip", ["svg"])
    [PosixPath('/.../strip.svg')]
    """
    chosen = list(endings)
    if unknown := [ending for ending in chosen if ending not in METADATA]:
        raise ValueError(f"endings must be of {', '.join(METADATA)}, got {unknown[0]!r}")
    every = np.ravel(ax)
    if not every.size or not all(hasattr(one, "get_figure") for one in every):
        raise TypeError(f"ax must be Axes or an array of them, got {ax!r}")
    figures = {one.get_figure(root=True) for one in every}
    if len(figures) > 1:
        raise ValueError(f"ax must be Axes of one figure, got those of {len(figures)}: save each")
    return [_write(figures.copy().pop(), Path(f"{os.fspath(stem)}.{e}"), e) for e in chosen]


def _write(figure: Any, path: Path, ending: str) -> Path:
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with style():
            figure.savefig(draft, format=ending, metadata=METADATA[ending])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
