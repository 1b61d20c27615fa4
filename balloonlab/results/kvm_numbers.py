"""Numbers of the virtual machine: beside the thread of the same run, its exits."""

from __future__ import annotations

from itertools import product

import pandas as pd

from .. import datasets
from ..measurement.on_lab import FLOOR
from ..measurement.reading import load
from ..measurement.run import totals
from ..sizes import GIB
from .number import SHORT, STATES, Numbers, number

EXITS = {"exit": "a kick that nobody listens to", "awake": "kick to host awake"}
EXITS |= {"answer": "answer to driver running"}


def _beside_the_thread() -> Numbers:
    """Compare cases by a thread and in a virtual machine, in turns of one run."""
    frame = load(datasets.path("vms")).frame
    by = ["source", "protocol", "touched", "thp"]
    ms = totals(frame).set_index(by)["median_ms"]
    discards = frame[frame["stage"] == "discard"].groupby([*by, "repeat"])["time_ns"].sum()
    per_page = discards.groupby(level=by).median() / frame["n_pages"].iloc[0]
    for (touched, state), thp, protocol in product(STATES.items(), (False, True), SHORT):
        case = protocol, touched, thp
        if ("kvm", *case) not in ms.index:
            continue
        pages = "huge pages" if thp else "no huge pages"
        name = f"vms_{state}_{'thp_' if thp else ''}{SHORT[protocol]}"
        about = f"2 GiB, {state}, {pages}, {protocol}"
        yield number("kvm", "vms", f"{name}_ms", ms["kvm", *case], "ms", about)
        ratio = ms["kvm", *case] / ms["lab", *case]
        yield number("kvm", "vms", f"{name}_over_lab", ratio, "times", about, "over the thread's")
        for source in ("lab", "kvm"):
            ns = per_page[source, *case]
            yield number(source, "vms", f"{name}_discard_{source}_ns", ns, "ns", about, "a page")


def _exits() -> Numbers:
    checks = load(datasets.path("kvm")).checks.query(f"protocol != {FLOOR!r}")
    for name, means in EXITS.items():
        us = checks[f"{name}_q2_ns"].median() / 1e3
        yield number("kvm", "kvm", f"kvm_{name}_us", us, "us", means, "median")
    for name in ("mapped", "unmapped"):
        ns = checks[f"{name}_discard_q2_ns"].median()
        means = f"madvise of a page that the guest has {name}"
        yield number("kvm", "kvm", f"kvm_{name}_discard_ns", ns, "ns", means)
    yield number("kvm", "kvm", "kvm_waits", checks["n_waits"].sum(), "", "waits outside")
    yield number("kvm", "kvm", "kvm_exits", checks["n_exits"].sum(), "", "exits counted")


def _sizes() -> Numbers:
    frame = pd.concat([load(datasets.path(name)).frame for name in ("kvm-sizes", "kvm")])
    for (touched, state), protocol in product(STATES.items(), ("pfn", "bitmap-v4")):
        rows = frame[(frame["touched"] == touched) & (frame["protocol"] == protocol)]
        rows = rows.groupby(["memory_bytes", "n_pages", "repeat"])["time_ns"].sum()
        ns = rows.groupby(level=["memory_bytes", "n_pages"]).median().reset_index()
        ns = ns["time_ns"] / ns["n_pages"]
        most = int(frame["memory_bytes"].max()) // GIB
        about = f"1 to {most} GiB, {state}, {protocol}, per page"
        for end, value in (("least", ns.min()), ("most", ns.max())):
            name = f"kvm_sizes_{state}_{SHORT[protocol]}_{end}_ns"
            yield number("kvm", "kvm-sizes", name, value, "ns", about)


PARTS = (_beside_the_thread, _exits, _sizes)
