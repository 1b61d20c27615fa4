"""Numbers of real guests: how their pages fill bitmaps, and what inflating by them costs."""

from __future__ import annotations

from functools import partial

from .. import datasets
from ..measurement.reading import load
from ..pages import traces
from ..sizes import GIB
from .number import SHORT, Numbers, number
from .sweep_numbers import both_ms

_trace, _lab = partial(number, "trace", "traces"), partial(number, "lab", "guests")


def _bitmaps() -> Numbers:
    """All inflations of PC guests together, then each state's in the largest; then by seed."""
    whole = traces.encoding_summary().sort_values(["memory_bytes", "share", "cycle"])
    frame = whole[whole["guest"] == "qemu"]
    native = [name for name in traces.names() if name.startswith(traces.NATIVE)]
    yield _trace("guests_traces", len(traces.names()) - len(native), "", "recorded in QEMU")
    yield _trace("guests_linux_traces", len(native), "", "recorded of a Linux that is a process")
    bits = frame["bits_per_word"][frame["share"] == frame["share"].max()]
    set_bits = "set in a word that is not empty"
    yield _trace("guests_least_bits", bits.min(), "", set_bits, "least")
    yield _trace("guests_most_bits", bits.max(), "", set_bits, "most")
    for row in frame.drop_duplicates("state", keep="last").to_dict("records"):
        name, about = f"guests_{row['state']}", row["name"]
        yield _trace(f"{name}_bits", row["bits_per_word"], "", set_bits, about)
        yield _trace(f"{name}_runs", round(row["runs_per_gib"]), "", "runs per GiB", about)
        for part in ("blocks", "full_words", "mixed_words"):
            percent = 100 * row[f"{part}_share"]
            yield _trace(f"{name}_{part}_percent", percent, "%", f"of pages in {part}", about)
    largest = whole[(whole["guest"] == "linux") & (whole["memory_bytes"] == 8 * GIB)]
    for state, rows in largest.groupby("state"):
        bits, n = rows["bits_per_word"], rows["seed"].nunique()
        for end, value in (("least", bits.min()), ("most", bits.max())):
            about = f"{end} of {n} seeds, linux, {state}, 8 GiB"
            yield _trace(f"guests_linux_{state}_{end}_bits", value, "", set_bits, about)


def _cost() -> Numbers:
    """Inflate by the same page numbers on real memory, touched."""
    frame = load(datasets.path("guests")).frame
    for pattern, n_pages in frame.groupby("pattern")["n_pages"].first().items():
        name = f"guests_{pattern.removeprefix('trace:').partition('-')[0]}"
        ms = both_ms(frame, pattern=pattern)
        for protocol, time_ms in ms.items():
            ns = 1e6 * time_ms / n_pages
            yield _lab(f"{name}_{SHORT[protocol]}_ns", ns, "ns", "per page", pattern, protocol)
        ratio = ms["pfn"] / ms["bitmap-v4"]
        yield _lab(f"{name}_ratio", ratio, "times", "pfn over bitmap-v4", pattern)


PARTS = (_bitmaps, _cost)
