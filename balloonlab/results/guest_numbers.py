"""Numbers of real guests: what their balloons were told, and what that costs in the laboratory."""

from __future__ import annotations

from .. import datasets
from ..measurement.store import load
from ..pages import traces
from .number import SHORT, Named, Number
from .sweep_numbers import median_ms


def numbers() -> Named:
    """Compute how full the words of real guests are, and what each protocol takes on them."""
    for part in (_told, _cost):
        yield from part()


def _told() -> Named:
    """All inflations together, then each state's in the largest guest."""
    frame = traces.encoding_summary().sort_values(["memory_bytes", "share", "cycle"])
    yield "guests_traces", _trace(len(traces.names()), "", "recorded")
    most = frame[frame["share"] == frame["share"].max()]
    bits = most["bits_per_word"]
    for name, value in (("least", bits.min()), ("most", bits.max())):
        yield f"guests_{name}_bits", _trace(value, "", "set in a word that is not empty", name)
    for row in frame.drop_duplicates("state", keep="last").to_dict("records"):
        name, about = f"guests_{row['state']}", row["name"]
        value = row["bits_per_word"]
        yield f"{name}_bits", _trace(value, "", "set in a word that is not empty", about)
        yield f"{name}_runs", _trace(round(row["runs_per_gib"]), "", "runs a GiB", about)
        for part in ("blocks", "full_words", "mixed_words"):
            share = 100 * row[f"{part}_share"]
            yield f"{name}_{part}_percent", _trace(share, "%", f"of pages told in {part}", about)


def _cost() -> Named:
    """Tell and discard the same page numbers on real memory, touched."""
    frame = load(datasets.path("guests")).frame
    n_pages = frame.groupby("pattern")["n_pages"].first()
    for pattern in sorted(n_pages.index):
        name = f"guests_{pattern.removeprefix('trace:').partition('-')[0]}"
        ms = {
            protocol: median_ms(frame, pattern=pattern, protocol=protocol)
            for protocol in ("pfn", "bitmap-v4")
        }
        for protocol, time_ms in ms.items():
            ns = 1e6 * time_ms / n_pages[pattern]
            number = Number(ns, "ns", "lab", "guests", f"a page, {pattern}, {protocol}")
            yield f"{name}_{SHORT[protocol]}_ns", number
        ratio = ms["pfn"] / ms["bitmap-v4"]
        about = f"pfn over bitmap-v4, {pattern}"
        yield f"{name}_ratio", Number(ratio, "times", "lab", "guests", about)


def _trace(value: float, unit: str, *means: str) -> Number:
    return Number(float(value), unit, "trace", "traces", ", ".join(means))
