"""What the time of each stage is made of: costs by name, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Term(NamedTuple):
    """A cost: so many ns per unit, in one part of a stage."""

    stage: str
    part: str
    unit: str
    what: str


COSTS = {
    "allocate": Term("allocate", "all", "n_pages", "a page that the guest takes"),
    "allocate_run": Term("allocate", "all", "n_runs", "a page that does not follow the last one"),
    "allocate_batch": Term("allocate", "all", "n_kicks", "a batch of them"),
    "release": Term("release", "all", "n_pages", "a page that the guest gets back"),
    "pack": Term("send", "pack", "n_pages", "a page that is written into the message"),
    "pack_byte": Term("send", "pack", "wire_bytes", "a byte of the message"),
    "pack_run": Term("send", "pack", "n_runs", "a page that does not follow the last one"),
    "exit": Term("send", "exit", "n_exits", "a kick's exit to the hypervisor, and back"),
    "notify": Term("send", "notify", "n_kicks", "both wake-ups of a kick, and all else of it"),
    "notify_call": Term("send", "notify", "n_discards", "waking up later, per call of the host"),
    "decode": Term("send", "decode", "n_pages", "a page that the host reads"),
    "decode_byte": Term("send", "decode", "wire_bytes", "a byte of the message"),
    "decode_range": Term("send", "decode", "n_translations", "a range that the host reads"),
    "translate": Term("translate", "all", "n_translations", "a look-up in the memory map"),
    "translate_page": Term("translate", "all", "n_pages", "a page that is marked as ballooned"),
    "free": Term("discard", "all", "n_pages", "a page that the call takes away"),
    "discard": Term("discard", "all", "n_calls", "a call for one extent"),
    "vectored_discard": Term("discard", "all", "n_vectored_calls", "a call for many extents"),
    "extent": Term("discard", "all", "n_vectored_extents", "an extent of such a call"),
    "sort": Term("discard", "all", "n_sorted", "a range that is sorted"),
    "split": Term("discard", "all", "n_partial_pages", "a page of 2 MiB of which others stay"),
}
"""Costs by the name that they are given by."""

KICK = "kick"
"""All that a kick takes, its exit too: given, it stands in the place of `KICK_PARTS`."""

KICK_PARTS = ("exit", "notify")
"""Parts of ``send`` that a measured frame has as one, ``notify``."""

PARTS = list(dict.fromkeys((term.stage, term.part) for term in COSTS.values()))

GROUPS = {
    "allocate": ("machine", "source", "message"),
    "release": ("machine", "source", "message"),
    "pack": ("machine", "source", "message"),
    "exit": ("machine", "source"),
    "notify": ("machine", "source", "message", "collected", "touched", "wait"),
    "decode": ("machine", "source", "message"),
    "translate": ("machine", "source", "message"),
    "discard": (
        *("machine", "source", "operation", "touched", "thp", "backing", "verb", "threads", "wait"),
    ),
}
"""What the costs of a part depend on besides its units: fitted apart for each."""


def names_of(stage: str, part: str) -> list[str]:
    """Return the names of the costs of a part."""
    return [name for name, term in COSTS.items() if (term.stage, term.part) == (stage, part)]


def measured_part(stage: str, part: str) -> tuple[str, str]:
    """Return the stage and part of a measured frame: exits are of ``notify``."""
    return stage, KICK_PARTS[-1] if part in KICK_PARTS else part


def group_of(stage: str, part: str, case: Mapping[str, Any]) -> str:
    """Return what the costs of a part depend on for a case, as text."""
    names = GROUPS[stage if part == "all" else part]
    return ",".join(f"{name}={case[name]}" for name in names)


def derived(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of cases and their units with the columns that groups and terms need."""
    vectored = table["vectors"] > 0
    return table.assign(
        message=np.where(table["protocol"] == "pfn", "page numbers", "records"),
        collected=table["collect"] > 1,
        n_exits=np.where(table["source"] == "kvm", table["n_kicks"], 0),
        n_calls=np.where(vectored, 0, table["n_discards"]),
        n_vectored_calls=np.where(vectored, table["n_discards"], 0),
        n_vectored_extents=np.where(vectored, table["n_extents"], 0),
        n_sorted=np.where(table["discard"].str.contains("sorted"), table["n_translations"], 0),
    )
