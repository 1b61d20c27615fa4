"""Numbers of real guests: how their pages fill bitmaps, and what inflating by them costs."""

from __future__ import annotations

from functools import partial

from .. import datasets
from ..measurement.estimates import spanning
from ..measurement.reading import load
from ..pages import traces
from ..sizes import GIB
from .number import SHORT, Numbers, Starts, estimated, number

_trace, _lab = partial(number, "trace", "traces"), partial(estimated, "lab", "guests")


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
    """Inflate by the same page numbers on real memory, touched; and which gains are alike."""
    frame = load(datasets.path("guests")).frame
    frame["time_ns"] = frame["time_ns"] / frame["n_pages"]
    starts, ratios = Starts(frame), {}
    ns = starts.times(["pattern", "protocol"])
    for pattern in sorted(set(frame["pattern"])):
        name = f"guests_{pattern.removeprefix('trace:').partition('-')[0]}"
        for protocol in ("pfn", "bitmap-v4"):
            page, key = starts.middle(ns[pattern, protocol]), f"{name}_{SHORT[protocol]}_ns"
            yield _lab(key, page, "ns", "per page", pattern, protocol)
        ratios[pattern] = starts.over(ns[pattern, "pfn"], ns[pattern, "bitmap-v4"])
        yield _lab(f"{name}_ratio", ratios[pattern], "times", "pfn over bitmap-v4", pattern)
    largest = max(ratios.values())
    alike = [one for one in ratios.values() if one.high >= largest.low]
    means = "states whose ratio is not told apart from the largest"
    yield number("lab", "guests", "guests_states", len(ratios), "", "states of guests, 4 GiB")
    yield number("lab", "guests", "guests_alike", len(alike), "", means)
    about = f"pfn over bitmap-v4, {means}"
    yield _lab("guests_alike_ratio", spanning(alike), "times", about)


PARTS = (_bitmaps, _cost)
