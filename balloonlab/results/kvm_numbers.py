"""Numbers of the virtual machine: beside the thread of the same run, its exits."""

from __future__ import annotations

from itertools import product

import pandas as pd

from .. import datasets
from ..measurement.estimates import spanning
from ..measurement.on_lab import FLOOR
from ..measurement.reading import load
from ..measurement.starts import unit_of
from ..sizes import GIB, format_size
from .number import SHORT, STATES, Numbers, Starts, estimated, number

EXITS = {"exit": "a kick that nobody listens to", "awake": "kick to host awake"}
EXITS |= {"answer": "answer to driver running"}


def _beside_the_thread() -> Numbers:
    """Compare cases by a thread and in a virtual machine, in the same process starts."""
    frame = load(datasets.path("vms")).frame
    by = ["source", "protocol", "touched", "thp"]
    starts, n_pages = Starts(frame), frame["n_pages"].iloc[0]
    size = format_size(int(frame["memory_bytes"].iloc[0]))
    whole = starts.times(by)
    discards = starts.times(by, frame[frame["stage"] == "discard"])
    for (touched, state), thp, protocol in product(STATES.items(), (False, True), SHORT):
        case = protocol, touched, thp
        if ("kvm", *case) not in whole:
            continue
        pages = "huge pages" if thp else "no huge pages"
        name = f"vms_{state}_{'thp_' if thp else ''}{SHORT[protocol]}"
        about = f"{size}, {state}, {pages}, {protocol}"
        kvm, lab = (whole[source, *case] for source in ("kvm", "lab"))
        yield estimated("kvm", "vms", f"{name}_ms", starts.middle(kvm, 1e-6), "ms", about)
        means = about, "over the thread's"
        yield estimated("kvm", "vms", f"{name}_over_lab", starts.over(kvm, lab), "times", *means)
        for source in ("lab", "kvm"):
            ns, key = (
                starts.middle(discards[source, *case] / n_pages),
                f"{name}_discard_{source}_ns",
            )
            yield estimated(source, "vms", key, ns, "ns", about, "a page")


def _exits() -> Numbers:
    checks = load(datasets.path("kvm")).checks.query(f"protocol != {FLOOR!r}")
    names = [f"{name}_q2_ns" for name in (*EXITS, "mapped_discard", "unmapped_discard")]
    starts = Starts(checks)
    quartiles = checks.groupby(unit_of(checks))[names].median()
    for name, means in EXITS.items():
        us = starts.middle(quartiles[f"{name}_q2_ns"], 1e-3)
        yield estimated("kvm", "kvm", f"kvm_{name}_us", us, "us", means, "median")
    for name in ("mapped", "unmapped"):
        ns = starts.middle(quartiles[f"{name}_discard_q2_ns"])
        means = f"madvise of a page that the guest has {name}"
        yield estimated("kvm", "kvm", f"kvm_{name}_discard_ns", ns, "ns", means)
    yield number("kvm", "kvm", "kvm_waits", checks["n_waits"].sum(), "", "waits outside")
    yield number("kvm", "kvm", "kvm_exits", checks["n_exits"].sum(), "", "exits counted")


def _sizes() -> Numbers:
    frame = pd.concat([load(datasets.path(name)).frame for name in ("kvm-sizes", "kvm")])
    frame["time_ns"] = frame["time_ns"] / frame["n_pages"]
    by = ["touched", "protocol", "memory_bytes"]
    starts = Starts(frame)
    ns = starts.times(by).map(starts.middle)
    most = int(frame["memory_bytes"].max()) // GIB
    for (touched, state), protocol in product(STATES.items(), ("pfn", "bitmap-v4")):
        about = f"1 to {most} GiB, {state}, {protocol}, per page"
        name = f"kvm_sizes_{state}_{SHORT[protocol]}_ns"
        yield estimated("kvm", "kvm-sizes", name, spanning(ns[touched, protocol]), "ns", about)


PARTS = (_beside_the_thread, _exits, _sizes)
