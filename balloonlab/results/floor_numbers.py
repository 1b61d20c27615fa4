"""Numbers of the way to the floor: the ladder, host policies, messages of other sizes."""

from __future__ import annotations

from functools import partial

from .. import datasets
from ..ladder import policy_times, rung_times, starts_of
from ..measurement.estimates import Estimate, spanning
from ..measurement.reading import load
from ..measurement.starts import unit_times
from .number import Numbers, Starts, estimated, short


def _ladder() -> Numbers:
    for row in rung_times(load(datasets.path("ladder")).frame).itertuples():
        name = f"ladder_{short(row.scenario)}_{short(row.rung)}_{row.source}"
        about = f"1 GiB, {row.scenario}, {row.rung}"
        page = Estimate(row.page_ns, row.page_low_ns, row.page_high_ns, row.page_interval)
        yield estimated(row.source, "ladder", f"{name}_ns", page, "ns", about, "per page")
        if row.interval:
            gain = Estimate(row.gain, row.gain_low, row.gain_high, row.interval)
            means = about, "over a madvise per page"
            yield estimated(row.source, "ladder", f"{name}_gain", gain, "times", *means)


def _policies() -> Numbers:
    """Each host policy on each kind of guest, then over all kinds."""
    table = policy_times(load(datasets.path("policies")).frame)
    gains: dict[tuple[str, str], list[Estimate]] = {}
    for row in table.itertuples():
        pattern = "trace" if row.pattern.startswith("trace:") else short(row.pattern)
        name, about = f"policy_{pattern}_{short(row.policy)}_{row.source}", f"pfn, {row.pattern}"
        page = Estimate(row.page_ns, row.page_low_ns, row.page_high_ns, row.page_interval)
        policies = partial(estimated, row.source, "policies")
        yield policies(f"{name}_ns", page, "ns", about, row.policy)
        gain = Estimate(row.gain, row.low, row.high, row.interval)
        if row.policy not in EQUAL:
            gains.setdefault((row.policy, row.source), []).append(gain)
            yield policies(f"{name}_gain", gain, "times", about, f"{row.policy} over {BASE}")
    for (policy, source), found in gains.items():
        name = f"policies_{short(policy)}_{source}"
        about = f"{policy} over {BASE}, kinds of guests: {len(found)}"
        yield estimated(source, "policies", name, spanning(found), "times", about)


EQUAL, BASE = ("qemu", "cloud-hypervisor"), "a madvise per page"
"""Policies that others are over, and what they do."""


def _allocation() -> Numbers:
    """Compare what the guest takes to get its pages in chunks, and as single ones."""
    frame = load(datasets.path("ladder")).frame
    rows = frame[(frame["protocol"] == "bitmap-v4") & (frame["pattern"] == "idle")]
    rows = rows[rows["stage"].eq("allocate") & (rows["source"] == "lab") & ~rows["touched"]]
    rows = rows.assign(time_ns=rows["time_ns"] / rows["n_pages"])
    starts, times = Starts(frame), unit_times(rows)
    ways = rows.drop_duplicates("run_id").set_index("run_id")["allocation"]
    by_way = {way: starts_of(times[ids]) for way, ids in ways.groupby(ways).groups.items()}
    for way, ns in by_way.items():
        name, about = f"allocate_{way}_ns", "to allocate a page of an idle guest"
        yield estimated("lab", "ladder", name, starts.middle(ns), "ns", about, f"allocation={way}")
    gain = starts.over(by_way["page"], by_way["chunk"])
    yield estimated("lab", "ladder", "allocate_gain", gain, "times", "page over chunk, idle")


def _threads() -> Numbers:
    starts = Starts(load(datasets.path("threads")).frame)
    ns = starts.times(["discard", "threads"])
    for discard in sorted(set(ns.index.get_level_values("discard"))):
        ratio = starts.over(ns[discard, 2], ns[discard, 1])
        name, about = f"threads_{short(discard)}_ratio", f"pfn by {discard}, two threads over one"
        yield estimated("lab", "threads", name, ratio, "times", about)


PARTS = (_ladder, _policies, _allocation, _threads)
