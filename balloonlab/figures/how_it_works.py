"""How a message works: a few pages, their bitmap, the records, the host's discards."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import wire
from ..kernels.bitmap import WORD
from ..model.accounting import discards, messages
from ..pages.checks import as_pfns
from .looks import LOOKS, Axes, canvas

MAX_WORDS = 8
"""Bitmap words that can be drawn: 512 pages on 5.5 inches are 0.8 points each."""

INK, SOME, NONE, OTHER, FRAME = "#333333", "#c8c8c8", "white", "#f0f0f0", "#707070"
BLOCK, SEAM = LOOKS["send"][1], "#5585b5"
HEIGHT, RUN_HEIGHT = 0.76, 0.54
WHOLE: dict[str, Any] = {"clip_on": False, "snap": False}
"""Snapped to whole pixels, single pages would differ in width."""

ROOM_PAGES = 24
"""Pages under which a number of three digits fits, where 512 are drawn."""

Words: TypeAlias = npt.NDArray[np.uint64]


def page_strip(pfns: npt.ArrayLike, ax: Axes | None = None) -> Axes:
    """Draw the way of a few pages, all computed: guest memory, bitmap, records, discards.

    Parameters
    ----------
    pfns : array-like of int, shape (n,)
        Pages in any order, within 8 bitmap words (512 pages).
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        x is the guest page number. Of its ``containers`` those labelled ``word`` and
        ``block`` are the records, in wire order; the one labelled ``bitmap-v4`` holds a
        box for each ``madvise`` call of that format, the one labelled ``pfn`` likewise.

    Raises
    ------
    TypeError, ValueError
        No pages, too wide a set, or as `balloonlab.wire.encode` (of both formats).
    """
    pages = _check_width(as_pfns(pfns))
    first_pfn, words = wire.pack(pages)
    counts = messages(pages)
    legacy, seed = counts.loc["pfn"], counts.loc["bitmap-v4"]
    sent = wire.records(wire.encode(pages, "bitmap-v4"))
    with canvas(ax, 7.2, 0.45 + 0.19 * (len(sent) + 13.4)) as ax:
        lanes = _Lanes(ax, first_pfn, len(words))
        lanes.heading(f"a  Guest memory: {_count(pages.size, 'page')} (dark) for the balloon")
        lanes.runs("guest pages", first_pfn, words, frames=1)
        lanes.heading(f"b  Pack: one bit per page, {WORD} bits per word")
        lanes.runs("bits", first_pfn, words, frames=len(words))
        _draw_words(lanes, first_pfn, words)
        lanes.heading(
            f"c  bitmap-v4: {_count(seed['kicks'], 'kick')}, {seed['wire bytes']} bytes: "
            f"header (8), then {_count(seed['records'], 'record')}"
        )
        _draw_records(lanes, sent)
        lanes.heading(f"d  bitmap-v4: {_count(seed['madvise calls'], 'madvise call')}")
        _draw_discards(lanes, pages, "bitmap-v4")
        lanes.heading(
            f"e  pfn, for comparison: {_count(legacy['kicks'], 'kick')}, "
            f"{legacy['wire bytes']:,} bytes, {_count(legacy['madvise calls'], 'madvise call')}"
        )
        _draw_discards(lanes, pages, "pfn")
        lanes.finish()
    return ax


def _check_width(pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    if pages.size == 0:
        raise ValueError("pfns must hold at least one page: an empty set has no message")
    low, high = int(pages.min()), int(pages.max())
    n_words = high // WORD - low // WORD + 1
    if n_words > MAX_WORDS:
        raise ValueError(
            f"pfns must lie within {MAX_WORDS} bitmap words of {WORD} pages to be drawn, "
            f"got {n_words} words (pages {low} to {high}): draw a part of them, "
            "or count with balloonlab.model.messages(pfns)"
        )
    return pages


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


class _Lanes:
    """Hands out lanes from top to bottom, all over one axis of page numbers."""

    def __init__(self, ax: Axes, first_pfn: int, n_words: int) -> None:
        self.ax, self._bottom = ax, -0.3
        self._first_pfn, self._end_pfn = first_pfn, first_pfn + n_words * WORD
        self._ticks: list[tuple[float, str]] = []
        # In points: a fifth of a page's width on 7.2 inches, so that something is left of each.
        self.hairline = min(0.4, 0.2 * 5.4 * 72 / (n_words * WORD))

    def heading(self, text: str) -> None:
        """Begin a group of lanes."""
        self._bottom += 1.3
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        place, across = (0, self._bottom - 0.15), ("axes fraction", "data")
        self.ax.annotate(text, place, xycoords=across, weight="bold", bbox=box)

    def next(self, label: str) -> float:
        """Begin a lane; return its middle."""
        self._bottom += 1
        self._ticks.append((self._bottom - 0.5, label))
        return self._bottom - 0.5

    def box(self, y: float, start: int, n_pages: int, text: str = "", **look: Any) -> None:
        """Draw a box over some pages, with a text in its middle."""
        look = {"edgecolor": "black", "clip_on": False, **look}
        self.ax.barh(y, n_pages, left=start, height=HEIGHT, **look)
        self.write(
            y, start + n_pages / 2, text, "white" if look["color"] in (INK, BLOCK) else "black"
        )

    def write(self, y: float, x: float, text: str, colour: str, **look: Any) -> None:
        """Put a text into a box."""
        look = {"ha": "center", "va": "center_baseline", "size": 8, **look}
        self.ax.annotate(text, (x, y), color=colour, **look)

    def runs(self, label: str, start_pfn: int, words: Words, frames: int, name: str = "") -> None:
        """Draw the pages or bits that are set, in one frame or in one per word."""
        y = self.next(label)
        span = words.size * WORD // frames
        for frame in range(frames):
            first = start_pfn + frame * span
            self.box(y, first, span, color=OTHER, edgecolor=FRAME, label=name)
        pieces, rows = wire.find_runs(words, start_pfn).tolist(), (y - RUN_HEIGHT / 2, RUN_HEIGHT)
        self.ax.broken_barh(pieces, rows, facecolor=INK, linewidth=0, **WHOLE)

    def finish(self) -> None:
        """Label both axes, with a tick and a line at every word boundary."""
        boundaries = range(self._first_pfn, self._end_pfn + 1, WORD)
        short = self._end_pfn < 10_000_000  # longer numbers would run into each other
        names = [str(pfn) if short else f"+{pfn - self._first_pfn}" for pfn in boundaries]
        since = "" if short else f", from {self._first_pfn} on"
        self.ax.set_xticks(boundaries, names)
        self.ax.set_xlabel(f"guest page number{since} (4 KiB pages; lines: word boundaries)")
        self.ax.set_xlim(self._first_pfn, self._end_pfn)
        self.ax.set_yticks(*zip(*self._ticks, strict=True))
        self.ax.set_ylim(self._bottom + 0.3, 0)
        self.ax.tick_params(axis="y", length=0)
        self.ax.spines["left"].set_visible(False)


def _draw_words(lanes: _Lanes, first_pfn: int, words: Words) -> None:
    """Draw full, mixed and empty words."""
    y = lanes.next("words")
    for word, value in enumerate(words.tolist()):
        n_set = value.bit_count()
        extreme = {0: ("empty", NONE), WORD: ("full", INK)}
        text, colour = extreme.get(n_set, (f"{n_set}/{WORD}", SOME))
        lanes.box(y, first_pfn + word * WORD, WORD, text, color=colour)


def _draw_records(lanes: _Lanes, sent: pd.DataFrame) -> None:
    """Draw one record per lane: a word with its bits, or a block as one piece."""
    for number, row in sent.iterrows():
        if row["kind"] == "word":
            label = f"{number}: head + word, {row['wire_bytes']} bytes"
            bits = np.frombuffer(row["bitmap"], np.uint64)
            lanes.runs(label, row["start_pfn"], bits, frames=1, name="word")
        else:
            text = _count(row["n_pages"], "page")
            y = lanes.next(f"{number}: head only, {row['wire_bytes']} bytes")
            lanes.box(y, row["start_pfn"], row["n_pages"], text, color=BLOCK, label="block")


def _draw_discards(lanes: _Lanes, pages: npt.NDArray[np.uint64], protocol: str) -> None:
    """Draw one box per call of madvise, with the calls' order where there is room."""
    calls = discards(wire.encode(pages, protocol), protocol)
    starts, lengths = (calls[name].astype(np.int64) for name in ("start_pfn", "n_pages"))
    y = lanes.next("host discards")
    _, colour, hatch = LOOKS["discard"]
    look: dict[str, Any] = {"hatch": hatch, "edgecolor": "black", "linewidth": 2 * lanes.hairline}
    if wire.get(protocol).discard == "page":
        look = {"edgecolor": SEAM, "linewidth": lanes.hairline}
    look |= {"height": HEIGHT, "color": colour, "label": protocol, **WHOLE}
    lanes.ax.barh(y, lengths, left=starts, **look)
    for number, (start, n_pages) in enumerate(zip(starts, lengths, strict=True), start=1):
        if n_pages >= ROOM_PAGES:
            box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
            lanes.write(y, start + n_pages / 2, str(number), "black", bbox=box)
