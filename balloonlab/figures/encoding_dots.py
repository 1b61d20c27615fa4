"""What each encoding takes for the same pages: a line per format, a mark per page set."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pandas as pd

from ..measurement.options import check_choice
from ..measurement.tables import check_columns
from .looks import Axes, NoCasesError, canvas, legend_below, name_bars

MARKS = "o", "s", "D", "^", "v", "P", "X", "*"
SHADES = "#1f5a99", "#e8a33d", "black", "white", "#8fbbe0"
LABELS = {
    "wire_bytes": "wire bytes per page, log scale",
    "encode_ns": "encoding, ns per page, log scale",
    "decode_ns": "decoding, ns per page, log scale",
    "lab_ns": "inflation, ns per page (lab), log scale",
    "kvm_ns": "inflation, ns per page (kvm), log scale",
}


def encodings(
    frame: pd.DataFrame, y: str = "wire_bytes", order: str = "list", ax: Axes | None = None
) -> Axes:
    """Draw what every format takes per page, for several page sets.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `balloonlab.encodings` returned.
    y : {'wire_bytes', 'encode_ns', 'decode_ns', 'lab_ns', 'kvm_ns'}
        What is drawn, per page that the format names.
    order : {'list', 'sorted'}
        Of which order.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    """
    check_choice("y", y, LABELS)
    check_columns(frame, ["pattern", "protocol", "order", "n_named", y], "frame", "encodings")
    rows = frame[(frame["order"] == order) & (frame["n_named"] > 0)].dropna(subset=[y])
    rows = rows[rows[y] > 0]
    if rows.empty:
        raise NoCasesError(f"frame must have rows of order={order!r} with {y}, and has none")
    protocols = list(dict.fromkeys(rows["protocol"]))
    with canvas(ax, 7.0, 1.5 + 0.26 * len(protocols)) as ax:
        ax.set_xscale("log")
        marks, shades = cycle(MARKS), cycle(SHADES)
        for pattern, mine in rows.groupby("pattern", sort=False):
            at = [protocols.index(name) for name in mine["protocol"]]
            label = str(pattern).removeprefix("trace:")
            options: dict[str, Any] = {"mec": "black", "mfc": next(shades), "ls": "", "alpha": 0.9}
            ax.plot(mine[y] / mine["n_named"], at, next(marks), label=label, **options)
        name_bars(ax, protocols)
        ax.set_xlabel(LABELS[y])
        ax.set_title(f"The same pages in every format, order: {order}")
        legend_below(ax, 3)
    return ax
