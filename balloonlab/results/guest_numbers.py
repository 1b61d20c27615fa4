"""Numbers of real guests: how their pages fill bitmaps, and what inflating by them costs."""

from __future__ import annotations

from functools import partial

from .. import datasets
from ..measurement.reading import load
from ..pages import traces
from .number import SHORT, Named, number
from .sweep_numbers import both_ms

_trace = partial(number, "trace", "traces")


def numbers() -> Named:
    """Compute how full the words of real guests are, and what each protocol takes on them."""
    for part in (_bitmaps, _cost):
        yield from part()


def _bitmaps() -> Named:
    """All inflations together, then each state's in the largest guest."""
    frame = traces.encoding_summary().sort_values(["memory_bytes", "share", "cycle"])
    yield "guests_traces", _trace(len(traces.names()), "", "recorded")
    most = frame[frame["share"] == frame["share"].max()]
    bits, set_bits = most["bits_per_word"], "set in a word that is not empty"
    for name, value in (("least", bits.min()), ("most", bits.max())):
        yield f"guests_{name}_bits", _trace(value, "", set_bits, name)
    for row in frame.drop_duplicates("state", keep="last").to_dict("records"):
        name, about = f"guests_{row['state']}", row["name"]
        yield f"{name}_bits", _trace(row["bits_per_word"], "", set_bits, about)
        yield f"{name}_runs", _trace(round(row["runs_per_gib"]), "", "runs per GiB", about)
        for part in ("blocks", "full_words", "mixed_words"):
            share = 100 * row[f"{part}_share"]
            yield f"{name}_{part}_percent", _trace(share, "%", f"of pages in {part}", about)


def _cost() -> Named:
    """Inflate by the same page numbers on real memory, touched."""
    frame = load(datasets.path("guests")).frame
    n_pages = frame.groupby("pattern")["n_pages"].first()
    for pattern in sorted(n_pages.index):
        name = f"guests_{pattern.removeprefix('trace:').partition('-')[0]}"
        ms = both_ms(frame, pattern=pattern)
        for protocol, time_ms in ms.items():
            means = f"per page, {pattern}, {protocol}"
            ns = 1e6 * time_ms / n_pages[pattern]
            yield f"{name}_{SHORT[protocol]}_ns", number("lab", "guests", ns, "ns", means)
        ratio, means = ms["pfn"] / ms["bitmap-v4"], f"pfn over bitmap-v4, {pattern}"
        yield f"{name}_ratio", number("lab", "guests", ratio, "times", means)
