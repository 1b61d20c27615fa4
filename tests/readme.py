"""What the README states, made from ``data/``; ``python -m tests.readme`` writes it anew."""

import re
from pathlib import Path
from textwrap import fill

import pandas as pd

import balloonlab as bl
from balloonlab.reproduction.report import render
from balloonlab.selftest.tables import render_contents, render_fuzz
from balloonlab.terminal import to_text

TOP = Path(__file__).parents[1]
README = TOP / "README.md"


def blocks() -> dict[str, str]:
    """Text of each generated block by the name in its marker."""
    headline = bl.reproduction.Reproduction.load(TOP / "data" / "headline")
    hostile = pd.read_csv(TOP / "data" / "reliability" / "fuzz.csv")
    contents = pd.read_csv(TOP / "data" / "contents" / "contents.csv")
    qemu = bl.reproduction.Reproduction.load(TOP / "data" / "qemu")
    return {
        "headline": to_text(render(headline)),
        "qemu": to_text(render(qemu)),
        "reliability": to_text(render_fuzz(hostile)),
        "contents": to_text(render_contents(contents)),
    }


ANSWERS = """
- **Where the time goes** (`lab`, 7 of 8 GiB). `pfn` takes {headline_untouched_pfn_ms} on
  memory that the host never backed (send {headline_untouched_send_percent}, discard
  {headline_untouched_discard_percent}), {headline_touched_pfn_ms} on memory that it must free
  (send {headline_touched_send_percent}, discard {headline_touched_discard_percent}). `bitmap-v4`
  takes {headline_untouched_bitmap_ms} and {headline_touched_bitmap_ms}; the latter is
  {headline_over_floor} one `madvise` over the same bytes.
- **Memory size** (`lab`, 1 to 16 GiB). Both times are proportional to memory. A touched page
  takes {sizes_touched_pfn_least_ns} to {sizes_touched_pfn_most_ns} with `pfn` and
  {sizes_touched_bitmap_least_ns} to {sizes_touched_bitmap_most_ns} with `bitmap-v4`; with huge
  pages behind the guest, {sizes_touched_thp_bitmap_least_ns} to
  {sizes_touched_thp_bitmap_most_ns} with `bitmap-v4`.
- **Fragmentation** (`lab`, half of 2 GiB, touched). `pfn` takes {runs_1024_ratio} as long as
  `bitmap-v4` for runs of 1024 pages on average, {runs_16_ratio} for 16, {runs_4_ratio} for 4 and
  {runs_1_ratio} for single pages.
- **Message or discard** (`lab`, half of 2 GiB, idle and touched). The message alone saves
  {grid_idle_touched_message_percent}, the discard by range alone
  {grid_idle_touched_range_percent}, both {grid_idle_touched_both_percent}; of random pages
  {grid_random_touched_message_percent}, {grid_random_touched_range_percent} and
  {grid_random_touched_both_percent}.
- **A real device** (`qemu`, 7 of 8 GiB). An unmodified QEMU takes {qemu_untouched_pfn_ms} with
  `pfn` on untouched memory and {qemu_touched_pfn_ms} on touched; with free page reporting
  {qemu_untouched_reporting_ms} and {qemu_touched_reporting_ms}.
- **Real guests** (`trace`, {guests_traces} traces). In a word of 64 pages with any bit set,
  {guests_least_bits} to {guests_most_bits} bits are set, depending on what the guest did: idle
  {guests_idle_bits}, page cache {guests_pagecache_bits}, half of tmpfs deleted
  {guests_tmpfs50_bits}, anonymous memory freed in pieces {guests_anon_bits}. On their pages `pfn`
  takes {guests_idle_ratio}, {guests_pagecache_ratio}, {guests_tmpfs50_ratio} and
  {guests_anon_ratio} as long as `bitmap-v4` (`lab`, touched).
"""
"""What came out, in numbers that `balloonlab.results` computes from ``data/``."""


def answers() -> str:
    """Fill in the numbers, one bullet per paragraph, in lines as the README has them."""
    bullets = " ".join(bl.results.render(ANSWERS).split()).split("- **")[1:]
    return "\n".join(
        fill(f"- **{text.strip()}", 100, subsequent_indent="  ", break_on_hyphens=False)
        for text in bullets
    )


def prose(text: str) -> str:
    """Leave out blocks of code and tables that are made from data."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def main() -> None:
    bl.results.write(TOP / "data")  # first: the texts below are checked by its names
    readme = README.read_text()
    for name, text in blocks().items():
        block = re.compile(rf"(<!-- {name} -->\n```text\n).*?(```)", re.DOTALL)
        readme = block.sub(lambda match, text=text: match[1] + text + match[2], readme)
    said = re.compile(r"(<!-- answers -->\n).*?(\n<!-- end -->)", re.DOTALL)
    readme = said.sub(lambda match: match[1] + answers() + match[2], readme)
    README.write_text(readme)


if __name__ == "__main__":
    main()
