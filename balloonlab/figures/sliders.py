"""Sliders over memory size, density and run length: what each protocol would cost."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..model import COUNTS, CostModel, predict
from ..pages import patterns
from ..sizes import MIB, PAGE_BYTES, Size, format_number, format_size, parse_pages
from .looks import PROTOCOLS, style
from .stage_bars import stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = {"pfn": "", "bitmap-v4": "////"}
"""Of each protocol's bars."""

QUANTITIES = {
    "n_records": "records",
    "n_kicks": "kicks",
    "wire_bytes": "wire bytes",
    "n_discards": "madvise calls",
}

MEMORIES = [256 * MIB << n for n in range(7)]
"""Guests that the slider reaches. Page sets are made and encoded in full at every move: 20 ms at
4 GiB, a quarter of a second at 16 GiB; drawing the picture takes 150 ms."""

MEAN_RUNS = [1 << n for n in range(13)]

MARGINS = {"left": 0.15, "right": 0.98, "top": 0.94, "bottom": 0.2, "hspace": 0.55}


def scattered(
    model: CostModel, memory: Size, density: float, mean_run: float
) -> tuple[float, pd.DataFrame]:
    """Return the mean run, and both protocols' predicted frame, of pages ``geometric:MEAN``.

    Where the guest is too full to keep so short runs apart, of the shortest it has room for.
    """
    memory_pages = parse_pages(memory, "memory")
    n_pages = round(memory_pages * density)
    # A run ends where a gap begins: n runs need n - 1 gaps of at least one page.
    n_runs = min(max(1, round(n_pages / mean_run)), memory_pages - n_pages + 1)
    pages = patterns.geometric(memory, n_pages * PAGE_BYTES, n_pages / n_runs)
    found = predict(
        memory=memory, pattern=pages, protocol=list(HATCHES), model=model, extrapolate=True
    )
    return n_pages / n_runs, found.frame


def compare_counts(table: pd.DataFrame, ax: Axes) -> None:
    """Draw records, kicks, wire bytes and calls of `scattered` as bars, logarithmic."""
    height = 0.8 / len(HATCHES)
    for number, (protocol, hatch) in enumerate(HATCHES.items()):
        y = np.arange(len(QUANTITIES)) + (number - 0.5) * height
        values = [int(table.loc[protocol, name]) for name in QUANTITIES]
        look: dict[str, Any] = {"color": PROTOCOLS[protocol][0], "hatch": hatch}
        ax.barh(y, values, height, edgecolor="white", label=protocol, **look)
        for at, value in zip(y, values, strict=True):
            ax.annotate(f"{value:,}", (value, at), (4, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(QUANTITIES)), list(QUANTITIES.values()))
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlim(1, 1e11)  # room for the legend; and fixed, so that it is the bars that move
    ax.set_xticks([1, 100, 10**4, 10**6, 10**8], ["1", "100", "10,000", "1,000,000", "100,000,000"])
    ax.set_xlabel("counted, nothing measured")
    ax.legend(loc="lower right")


class Explorer:
    """Three ``sliders`` and the picture that follows them; shows itself in a notebook."""

    def __init__(self, model: CostModel, memory: Size, density: float, mean_run: float) -> None:
        try:
            from ipywidgets import FloatSlider, SelectionSlider, VBox
        except ImportError:
            rule = "sliders need ipywidgets, which is not installed"
            raise ImportError(f"{rule}: pip install 'balloonlab[notebooks]'") from None
        self._model = model
        self._handle: Any = None
        self._waiting: asyncio.TimerHandle | None = None
        memory_bytes = parse_pages(memory, "memory") * PAGE_BYTES
        if memory_bytes not in MEMORIES:
            raise ValueError(f"memory must be a power of two, 256MiB to 16GiB, got {memory!r}")
        if mean_run not in MEAN_RUNS:
            raise ValueError(f"mean_run must be a power of two, 1 to 4096, got {mean_run!r}")
        if not 0.01 <= density <= 0.95:
            raise ValueError(f"density must be 0.01 to 0.95, got {density!r}")
        look = {"continuous_update": False, "style": {"description_width": "9em"}}
        look["layout"] = {"width": "34em"}
        sized = {"options": [(format_size(n), n) for n in MEMORIES], "value": memory_bytes}
        ends = {"min": 0.01, "max": 0.95, "step": 0.01, "readout_format": ".0%"}
        long = {"options": MEAN_RUNS, "value": mean_run}
        self.sliders = {
            "memory": SelectionSlider(description="memory", **sized, **look),
            "density": FloatSlider(density, description="share ballooned", **ends, **look),
            "mean_run": SelectionSlider(description="mean run, pages", **long, **look),
        }
        self._box = VBox(list(self.sliders.values()))
        for slider in self.sliders.values():
            slider.observe(self._follow, "value")

    def draw(self) -> Figure:
        """Draw the picture for the sliders' values."""
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import PlaceHolderLayoutEngine

        memory, density, mean_run = (slider.value for slider in self.sliders.values())
        found, predicted = scattered(self._model, memory, density, mean_run)
        table = predicted.groupby("protocol", sort=False)[list(COUNTS)].first()
        with style():
            # Fixed margins: a layout made to fit takes as long as all the rest of the drawing.
            layout = PlaceHolderLayoutEngine(adjust_compatible=False, colorbar_gridspec=True)
            figure = Figure(figsize=(7.2, 4.6), dpi=150, layout=layout)
            top, bottom = figure.subplots(2, 1, height_ratios=(2.2, 1), gridspec_kw=MARGINS)
            compare_counts(table, top)
            top.set_title(
                f"{format_size(memory)} touched, {100 * density:.0f} % ballooned in runs of "
                f"{format_number(found)} pages on average"
            )
            stages(predicted, ["protocol"], "Predicted stages", "operation", bottom)
            bottom.set_xlabel("predicted time of the inflation, ms")
        return figure

    def _follow(self, _change: object) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # not in a kernel
            self._show()
        else:
            # Once the sliders have rested for 50 ms: of a fast move only the end is drawn.
            self._waiting = loop.call_later(0.05, self._show)

    def _show(self) -> None:
        """Put the picture in the place of the earlier one, or below the sliders."""
        from IPython.display import Image, display
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        picture = BytesIO()
        with style():
            canvas = FigureCanvasAgg(self.draw())
            canvas.print_png(picture)  # type: ignore[no-untyped-call]  # savefig draws twice
        image = Image(picture.getvalue(), format="png", width=760)  # type: ignore[no-untyped-call]
        # Not ipywidgets.interactive_output, whose pictures are widget state: this one stays in the
        # notebook for readers without a kernel.
        if self._handle is None:
            self._handle = display(image, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(image)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self._box)  # type: ignore[no-untyped-call]
        self._handle = None
        self._show()


def explore(
    model: CostModel, memory: Size = "4GiB", density: float = 0.5, mean_run: int = 16
) -> Explorer:
    """Show sliders for memory, density and run length, and what each protocol costs there.

    Page sets (``geometric:MEAN``) are made and encoded anew at every move: records, kicks, wire
    bytes and calls are counted exactly. The stages are the model's, for touched memory without
    huge pages and each protocol's usual discard.

    Parameters
    ----------
    model : balloonlab.model.CostModel
        Fitted to inflations of touched memory by ``pfn`` and ``bitmap-v4``.
    memory, density, mean_run : int or str, float, int
        256 MiB to 16 GiB, a power of two; 0.01 to 0.95; 1 to 4096 pages, a power of two.

    Returns
    -------
    Explorer
        Shows itself as the last line of a notebook's cell.

    Raises
    ------
    ImportError, ValueError
        ipywidgets is not installed; a slider has no such place.
    """
    return Explorer(model, memory, density, mean_run)
