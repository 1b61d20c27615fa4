"""What the pages state, made from ``data/``; ``python -m tests.readme`` writes it anew."""

import json
import re
from pathlib import Path
from textwrap import fill

import pandas as pd

import balloonlab as bl
from balloonlab.measurement import columns
from balloonlab.reproduction.report import render
from balloonlab.results.export import shipped
from balloonlab.selftest.tables import render_contents, render_fuzz
from balloonlab.terminal import to_text

TOP = Path(__file__).parents[1]
PAGES = (TOP / "README.md", TOP / "data" / "README.md", TOP / "CONTRIBUTING.md")
"""Prose whose numbers are those of the data."""

HEADLINE = """\
| source | memory | `pfn` | the new format | one `madvise` |
|---|---|---|---|---|
| `paper` | idle guest | {paper_pfn_ms} | `bitmap-v4` {paper_bitmap_ms} | |
| `lab` | untouched | {headline_untouched_pfn_ms} | `bitmap-v4` {headline_untouched_bitmap_ms} | |
| `lab` | touched | {headline_touched_pfn_ms} | `bitmap-v4` {headline_touched_bitmap_ms} \
| {headline_touched_floor_ms} |
| `kvm` | untouched | {kvm_untouched_pfn_ms} | `bitmap-v4` {kvm_untouched_bitmap_ms} | |
| `kvm` | touched | {kvm_touched_pfn_ms} | `bitmap-v4` {kvm_touched_bitmap_ms} \
| {kvm_touched_floor_ms} |
| `linux` | untouched | {linux_untouched_pfn_ms} | `hinting` {linux_untouched_hinting_ms} | |
| `linux` | touched | {linux_touched_pfn_ms} | `hinting` {linux_touched_hinting_ms} | |
| `qemu` | untouched | {qemu_untouched_pfn_ms} | `reporting` {qemu_untouched_reporting_ms} | |
| `qemu` | touched | {qemu_touched_pfn_ms} | `reporting` {qemu_touched_reporting_ms} | |"""

ANSWERS = """
- **Since 2016** (7 of 8 GiB). Of the paper's {paper_bitmap_ms} {paper_bitmap_allocate_ms} are
  allocation, which the patch left alone; of the other {paper_bitmap_rest_ms} today's steps (`kvm`)
  leave {since_2016_bitmap_untouched_unexplained_ms:range} unexplained on untouched memory; on
  touched memory discards alone take {since_2016_bitmap_touched_discard_ms:range}. With Linux's own
  allocation (`linux`, {since_2016_bitmap_untouched_allocate_ns:range} per page) the gain in a
  virtual machine is {since_2016_kvm_linux_untouched_gain:range} untouched and
  {since_2016_kvm_linux_touched_gain:range} touched, with the paper's
  {since_2016_kvm_paper_untouched_gain:range} and {since_2016_kvm_paper_touched_gain:range}.
- **What hosts gain alone** (7/8 of 1 GiB, touched; today's message, no guest changes). Joining
  neighbours, as crosvm does, makes `pfn` {ladder_idle_touched_neighbours_joined_lab_gain:range} as
  fast (`lab`; `kvm`: {ladder_idle_touched_neighbours_joined_kvm_gain:range}); 32 messages sorted,
  in vectored calls by two threads, {ladder_idle_touched_two_threads_lab_gain:range} (`kvm`:
  {ladder_idle_touched_two_threads_kvm_gain:range}), of pages at random
  {ladder_random_touched_two_threads_lab_gain:range}, under Linux's own driver
  {policy_idle_collected_by_two_linux_gain:range} (`linux`).
- **Where the time goes** (7 of 8 GiB). `pfn` spends its time on sending
  ({headline_untouched_send_percent:range} untouched, {headline_touched_send_percent:range}
  touched) and on one `madvise` per page ({headline_untouched_discard_percent:range} and
  {headline_touched_discard_percent:range}; `lab`). Touched, `bitmap-v4` takes
  {headline_over_floor:range} one `madvise` over the same bytes (`kvm`: {kvm_over_floor:range}):
  the kernel's freeing is what is left.
- **To the floor** (as above). With whole blocks and two threads, host and guest take
  {ladder_idle_touched_whole_blocks_lab_ns:range} per page; one `madvise` by one thread takes
  {ladder_idle_touched_floor_one_madvise_lab_ns:range}.
- **Encodings**. Of {encodings_traces_list_n} recorded inflations (`trace`) bits are shortest in
  {encodings_traces_list_bitmaps_percent} in the guest's order, sorted in
  {encodings_traces_sorted_bitmaps_percent}, else runs; `pfn` alone takes longer (`kvm`).
- **Size and fragmentation** (`lab`, touched). From 1 to {sizes_most_gib} a page takes
  {sizes_touched_pfn_ns:range} with `pfn` and {sizes_touched_bitmap_ns:range} with `bitmap-v4`;
  `pfn` takes {runs_4096_ratio:range} as long for runs of 4096 pages, {runs_1_ratio:range} for 1.
- **The real driver** (`linux`, 7 of 8 GiB, a shared file). Linux's own takes
  {linux_untouched_pfn_ms:range} untouched, {linux_untouched_send_percent:range} of it to send, and
  {linux_touched_pfn_ms:range} touched, {linux_touched_discard_percent:range} of it discarding.
- **What is freed.** On a shared file (memfd) `MADV_DONTNEED` frees
  {frees_memfd_dontneed_small_freed}, a hole all, {frees_memfd_punch_huge_ns:range} per page in
  large pieces (`lab`); of hugetlb QEMU frees {qemu_hugetlb_pfn_touched_freed} with `pfn` and
  {qemu_hugetlb_reporting_touched_freed} with `reporting` (`qemu`). To take a page back costs
  {give_back_page_lab_us:range}, in a virtual machine {give_back_page_kvm_us:range}.
- **Real guests** (`trace`, {guests_traces} traces: real kernels, synthetic workloads). Of the 64
  pages of a bitmap word, where any is given, {guests_least_bits} to {guests_most_bits} are: idle
  {guests_idle_bits}, page cache {guests_pagecache_bits}, half of tmpfs deleted
  {guests_tmpfs50_bits}, anonymous memory freed in pieces {guests_anon_bits}.
"""
"""What came out, in numbers that `balloonlab.results` computes from ``data/``."""

DRIFT = """
The data of one command, `balloonlab campaign`, are of ten process starts (the headlines) or five,
in random order, lab, virtual machine, Linux and QEMU mixed. A reference case between them, measured
{drift_pfn_n}, tells how steady the machine was (`lab`): inflating a touched guest of 1 GiB
took {drift_pfn_ms} with `pfn` and {drift_bitmap_ms} with `bitmap-v4`, with a trend of
{drift_pfn_trend_percent:range} and {drift_bitmap_trend_percent:range} an hour. So an interval holds
what this machine did in those hours, its bad minutes included.
"""
"""How steady the machine was on which the data were measured."""

OTHER_MACHINE = "numbers-epyc.json"
"""Numbers of an earlier campaign; one machine alone could be an exception."""

ON_TWO_MACHINES = [
    "headline_untouched_ratio",
    "headline_touched_ratio",
    "kvm_untouched_ratio",
    "kvm_touched_ratio",
    "headline_over_floor",
    "kvm_over_floor",
    "linux_touched_ratio",
    "qemu_touched_ratio",
    "ladder_idle_touched_neighbours_joined_lab_gain",
    "ladder_idle_touched_neighbours_joined_kvm_gain",
    "ladder_idle_touched_two_threads_lab_gain",
    "ladder_idle_touched_two_threads_kvm_gain",
    "policy_idle_collected_by_two_linux_gain",
    "threads_page_ratio",
    "sizes_touched_thp_ratio",
    "runs_4096_ratio",
    "runs_1_ratio",
    "guests_anon_ratio",
    "crossover_kvm_pfn_ratio",
    "impact_page_lab_percent",
    "impact_page_kvm_percent",
    "give_back_page_lab_us",
    "give_back_page_kvm_us",
    "headline_touched_pfn_ms",
    "kvm_touched_pfn_ms",
    "headline_touched_floor_ms",
]
"""What both machines are compared by: ratios first, then shares and times."""


def answers() -> str:
    """Fill in the numbers, a bullet a paragraph, in lines as the README has them."""
    text = bl.results.render(ANSWERS)
    return "\n".join(_filled(f"- **{bullet.strip()}", "  ") for bullet in text.split("- **")[1:])


def _filled(text: str, indent: str = "") -> str:
    """Fill lines of 100 characters; a number and its unit stay together."""
    text = " ".join(text.split())
    whole = re.sub(r"(?<=\d) (?=%|ns|ms|times)", "\N{NO-BREAK SPACE}", text)
    lines = fill(whole, 100, subsequent_indent=indent, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def parts() -> dict[str, str]:
    """Make each generated part, by the name in its marker."""
    data = TOP / "data"
    load = bl.reproduction.Reproduction.load
    reports = {
        "headline": render(load(data / "headline")),
        "kvm": render(load(data / "kvm")),
        "linux": render(load(data / "linux")),
        "qemu": render(load(data / "qemu")),
        "reliability": render_fuzz(pd.read_csv(data / "reliability" / "fuzz.csv")),
        "contents": render_contents(pd.read_csv(data / "contents" / "contents.csv")),
    }
    made = {name: f"```text\n{to_text(report)}```" for name, report in reports.items()}
    return made | {
        "headline-short": bl.results.render(HEADLINE),
        "answers": answers(),
        "drift": _filled(bl.results.render(DRIFT)),
        "machines": render_machines(),
        "columns": render_columns(columns()),
    }


def render_machines() -> str:
    """Write what this machine and another one measured as a table, and how much of it agrees."""
    here, there = shipped(), shipped(OTHER_MACHINE)
    both = [
        (number, there[name])
        for name, number in here.items()
        if number.unit == "times" and "starts" in number.interval and name in there
    ]
    n_overlap = sum(a.low <= b.high and b.low <= a.high for a, b in both)
    machine = json.loads(bl.datasets.path("headline/meta.json").read_text())["cpu_model"]
    lines = [f"| | source | {machine} | AMD EPYC |", "|---|---|---|---|"]
    for name in ON_TWO_MACHINES:
        one, other = here[name], there[name]
        means = one.means if one.means == other.means else f"{one.means}; there {other.means}"
        lines.append(f"| {means} | `{one.source}` | {one} | {other} |")
    lines += ["", f"Of all {len(both)} ratios that both campaigns have, {n_overlap} have intervals"]
    return "\n".join(lines) + " that overlap."


def render_columns(frame: pd.DataFrame) -> str:
    """Write the column dictionary as a table for each kind of rows."""
    files = {"frame": "timings.csv", "qemu checks": "checks.csv` of `qemu"}
    files |= {"freed checks": "checks.csv` of `lab`, `kvm` and `qemu"}
    files |= {f"{source} checks": f"checks.csv` of `{source}" for source in ("linux", "kvm")}
    texts = []
    for table, rows in frame.groupby("table", sort=False):
        lines = [
            f"| `{files.get(table, f'{table}.csv')}` | unit | type | meaning |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{row.name}` | {row.unit} | {row.dtype} | {row.meaning} |"
            for row in rows.itertuples(index=False)
        ]
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def fresh(text: str) -> str:
    """Return a page with what stands between its markers made anew."""
    made = parts()
    part = re.compile(rf"<!-- ({'|'.join(made)}) -->\n.*?<!-- end -->", re.DOTALL)
    return part.sub(lambda match: f"<!-- {match[1]} -->\n{made[match[1]]}\n<!-- end -->", text)


def prose(text: str) -> str:
    """Leave out blocks of code and tables that are made from data."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def main() -> None:
    bl.results.write(TOP / "data")  # first: the texts below are checked by its names
    bl.figures.save(bl.figures.since_2016(), TOP / "data" / "since-2016")
    for page in PAGES:
        page.write_text(fresh(page.read_text()))


if __name__ == "__main__":
    main()
