"""Numbers of the headline: the paper's, the lab's, QEMU's; and of what was checked."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .. import datasets
from ..datasets import published
from ..measurement.on_lab import FLOOR
from ..reproduction.reproduction import Reproduction, median_repeat
from ..sizes import GIB
from .number import SHORT, STATES, Named, Number, number

_paper = partial(number, "paper", "published.csv")


def numbers() -> Named:
    """Compute what `balloonlab reproduce`, `fuzz` and `verify` found, beside the paper."""
    for part in (_published, _headline, _qemu, _reliability, _contents):
        yield from part()


def _published() -> Named:
    table = published()
    total = table.groupby("protocol")["time_ms"].sum()
    for protocol in ("pfn", "bitmap-v4"):
        name = f"paper_{SHORT[protocol]}_ms"
        yield name, _paper(total[protocol], "ms", f"7 of 8 GiB idle, {protocol}")
    saved = 100 * (1 - total["bitmap-v4"] / total["pfn"])
    yield "paper_saved_percent", _paper(saved, "%", "of the time of pfn, by bitmap-v4")
    for row in table[table["protocol"] == "pfn"].itertuples():
        share = 100 * row.time_ms / total["pfn"]
        yield f"paper_{row.stage}_percent", _paper(share, "%", f"{row.stage} of pfn")


def _headline() -> Named:
    yield from _reproduction("headline", "bitmap-v4")
    over = Reproduction.load(datasets.path("headline")).ratio("bitmap-v4", FLOOR, True)
    yield "headline_over_floor", _measured("headline", over, "times", "bitmap-v4 over one madvise")


def _qemu() -> Named:
    yield from _reproduction("qemu", "reporting")


def _reproduction(data: str, bulk: str) -> Named:
    """Totals of the headline's cases, the shares of the stages of ``pfn``, the gain."""
    result = Reproduction.load(datasets.path(data))
    for touched, state in STATES.items():
        case = f"7 of 8 GiB, {state}"
        for protocol, short in SHORT.items():
            repeat = median_repeat(result.frame, protocol, touched)
            if repeat.empty:
                continue
            stages = repeat.groupby("stage")["time_ns"].sum() / 1e6
            name = f"{data}_{state}_{short}_ms"
            yield name, _measured(data, stages.sum(), "ms", case, protocol)
            if protocol == "pfn":
                for stage, share in (100 * stages / stages.sum()).items():
                    name = f"{data}_{state}_{stage}_percent"
                    yield name, _measured(data, share, "%", case, f"{stage} of pfn")
        ratio = result.ratio("pfn", bulk, touched)
        yield f"{data}_{state}_ratio", _measured(data, ratio, "times", case, f"pfn over {bulk}")


def _measured(data: str, value: float | None, unit: str, *means: str) -> Number:
    assert value is not None
    return number("qemu" if data == "qemu" else "lab", data, value, unit, *means)


def _reliability() -> Named:
    rows = pd.read_csv(datasets.path("reliability/fuzz.csv"))
    counts = rows.groupby("finding")["count"].sum()
    for name, finding in (
        ("cases", "cases"),
        ("canaries_changed", "canary words changed"),
        ("discards_outside", "discards outside RAM"),
    ):
        yield f"fuzz_{name}", _measured("reliability", counts[finding], "", finding)


def _contents() -> Named:
    rows = pd.read_csv(datasets.path("contents/contents.csv"))
    for column in ("changed_bytes", "nonzero_bytes"):
        yield f"contents_{column}", _measured("contents", rows[column].sum(), "", column)
    compared = rows[["kept_bytes", "ballooned_bytes"]].sum().sum() / GIB
    yield "contents_gib", _measured("contents", compared, "GiB", "compared byte by byte")
