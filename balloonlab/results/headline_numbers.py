"""Numbers of the headline: the paper's, the lab's, QEMU's; and of what was checked."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .. import datasets
from ..datasets import published
from ..measurement.on_lab import FLOOR
from ..measurement.reading import load
from ..reproduction.reproduction import Reproduction, median_repeat, stages_ms
from ..sizes import GIB
from .number import SHORT, STATES, Numbers, number

_paper, _lab = partial(number, "paper", "published.csv"), partial(number, "lab")


def _published() -> Numbers:
    table = published()
    total = table.groupby("protocol")["time_ms"].sum()
    for protocol in ("pfn", "bitmap-v4"):
        name = f"paper_{SHORT[protocol]}_ms"
        yield _paper(name, total[protocol], "ms", f"7 of 8 GiB idle, {protocol}")
    saved = 100 * (1 - total["bitmap-v4"] / total["pfn"])
    yield _paper("paper_saved_percent", saved, "%", "of the time of pfn, by bitmap-v4")
    for row in table[table["protocol"] == "pfn"].itertuples():
        share = 100 * row.time_ms / total["pfn"]
        yield _paper(f"paper_{row.stage}_percent", share, "%", f"{row.stage} of pfn")


def _reproduction(source: str, data: str, bulk: str) -> Numbers:
    """Totals of the headline's cases, the shares of the stages of ``pfn``, the gain."""
    result = Reproduction.load(datasets.path(data))
    measured = partial(number, source, data)
    for touched, state in STATES.items():
        name, case = f"{data}_{state}", f"7 of 8 GiB, {state}"
        for protocol, short in SHORT.items():
            stages = stages_ms(median_repeat(result.frame, protocol, touched))
            if stages.empty:
                continue
            yield measured(f"{name}_{short}_ms", stages.sum(), "ms", case, protocol)
            if protocol == "pfn":
                for stage, share in (100 * stages / stages.sum()).items():
                    yield measured(f"{name}_{stage}_percent", share, "%", case, f"{stage} of pfn")
        if ratio := result.ratio("pfn", bulk, touched):
            yield measured(f"{name}_ratio", ratio, "times", case, f"pfn over {bulk}")
    if over := result.ratio("bitmap-v4", FLOOR, True):
        yield measured(f"{data}_over_floor", over, "times", "bitmap-v4 over one madvise")


def _drivers() -> Numbers:
    """Linux's driver and the lab's on the same guest's pages, touched and not: ns per page."""
    frame = load(datasets.path("drivers")).frame
    frame["ns"] = frame["time_ns"] / frame["n_pages"]
    by_stage = frame.groupby(["touched", "source", "stage", "run_id", "repeat"])["ns"].sum()
    for (touched, source, stage), ns in by_stage.groupby(level=[0, 1, 2]).median().items():
        name, about = f"drivers_{STATES[touched]}_{stage}_{source}_ns", "2 GiB, idle and tmpfs50"
        yield number(source, "drivers", name, ns, "ns", f"{stage} per page, pfn", about)


def _reliability() -> Numbers:
    rows = pd.read_csv(datasets.path("reliability/fuzz.csv"))
    counts = rows.groupby("finding")["count"].sum()
    for name, finding in (
        ("cases", "cases"),
        ("canaries_changed", "canary words changed"),
        ("discards_outside", "discards outside RAM"),
    ):
        yield _lab("reliability", f"fuzz_{name}", counts[finding], "", finding)


def _contents() -> Numbers:
    rows = pd.read_csv(datasets.path("contents/contents.csv"))
    for column in ("changed_bytes", "nonzero_bytes"):
        yield _lab("contents", f"contents_{column}", rows[column].sum(), "", column)
    compared = rows[["kept_bytes", "ballooned_bytes"]].sum().sum() / GIB
    yield _lab("contents", "contents_gib", compared, "GiB", "compared byte by byte")


PARTS = (
    _published,
    partial(_reproduction, "lab", "headline", "bitmap-v4"),
    partial(_reproduction, "kvm", "kvm", "bitmap-v4"),
    partial(_reproduction, "qemu", "qemu", "reporting"),
    partial(_reproduction, "linux", "linux", "hinting"),
    _drivers,
    _reliability,
    _contents,
)
