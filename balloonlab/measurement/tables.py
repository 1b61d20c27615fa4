"""The columns of every table of a run: name, unit, type and meaning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..kernels.pfn import PFNS_PER_BUFFER
from .options import TABLE, Option


class Column(NamedTuple):
    """A column; `dtype` is that of the frame, and of what is read back."""

    name: str
    dtype: type
    meaning: str

    @property
    def unit(self) -> str:
        """Return ns, bytes or count; empty where it is neither."""
        if self.name.startswith("n_") or self.name.endswith("_pages") or "_pages_" in self.name:
            return "count"
        return next((unit for unit in ("ns", "bytes") if f"_{unit}" in self.name), "")


def _of_option(row: Option) -> Column:
    name, (meaning, *_) = str(row.column), row.help.split(". ")
    whole = row.kind is int or name.endswith("_bytes")
    return Column(name, np.int64 if whole else row.kind, meaning.rstrip(".") + ".")


_CHOSEN = [row for row in TABLE.values() if row.column]
_CHOSEN.sort(key=lambda row: str(row.column).endswith("_bytes"))  # sizes last
_RUN = Column("run_id", str, "Names a case of one run.")
_SOURCE = Column(
    "source", str, "Who measured: lab, kvm, linux or qemu (a guest and a host make a source)."
)
_START = Column("start", np.int64, "Number of the process start that measured it, from 0.")
_REPEAT = Column("repeat", np.int64, "Number of the repeat, from 0; unique over the starts.")

FRAME = (
    _RUN,
    _SOURCE,
    *(_of_option(row) for row in _CHOSEN if not row.skipped_only),
    _START,
    _REPEAT,
    Column("stage", str, "Stage that the time is of: allocate or release, send, translate, ..."),
    Column("part", str, "Part of the stage: pack, notify or decode of send, else all."),
    Column("time_ns", np.int64, "Time of the part; a repeat's rows sum to its wall time."),
    Column("n_pages", np.int64, "Pages of the balloon."),
    Column("negotiated_protocol", str, "Protocol that was spoken; empty where there was none."),
    Column("n_bitmaps", np.int64, "Bitmaps that the driver used; 0 without any."),
    Column("n_kicks", np.int64, "Messages on the queue, one per kick."),
    Column("wire_bytes", np.int64, "Bytes of all messages."),
    Column("n_records", np.int64, "Records, PFNs or descriptors in them."),
    Column("n_translations", np.int64, "Look-ups in the memory map."),
    Column("n_discards", np.int64, "Calls that discard: of madvise, or of process_madvise."),
)
"""One row per stage part. Counts stand for the whole operation and are the same in each of its
rows. Units are in the names: ``_ns``, ``_bytes``, and ``n_`` for counts."""

CHECKS = (
    _RUN,
    Column("protocol", str, "As in the frame."),
    Column("operation", str, "As in the frame."),
    Column("touched", bool, "As in the frame."),
    _START,
    _REPEAT,
    Column("wall_ns", np.int64, "Wall time of the operation: what the stages sum to."),
    Column("rss_fall_bytes", np.int64, "Fall of the host process's resident memory meanwhile."),
    Column("resident_pages_before", np.int64, "Pages of RAM that the host backed before."),
    Column("huge_bytes_before", np.int64, "Bytes of RAM on transparent huge pages before."),
    Column("resident_pages_after", np.int64, "Pages of RAM that the host backed after."),
    Column("balloon_pages", np.int64, "Pages found in the balloon."),
    Column("lost_pages", np.int64, "Pages outside the balloon that lost their contents."),
)
"""One row per repeat: what memory looked like around it."""

FREED_CHECKS = (
    Column("freed_bytes", np.int64, "What is less of RAM: mapped private pages, or its file's."),
    Column("zero_pages", np.int64, "Pages of the balloon that read zero afterwards (touched RAM)."),
    Column("old_pages", np.int64, "Pages of the balloon that still read what the guest wrote."),
    Column("mappings_after", np.int64, "Mappings of RAM afterwards."),
    Column("huge_bytes_after", np.int64, "Bytes of RAM on transparent huge pages afterwards."),
    Column(
        "deferred_huge_pages", np.int64,
        "Transparent huge pages broken, but held whole until memory is short (of the machine).",
    ),
)  # fmt: skip
"""Of repeats at balloonlab's own device and in QEMU besides: what a discard really did."""

_TRIPS = {
    "empty": "empty messages",
    "skipped": "full messages that were passed over",
    "translate": "pairs: full less empty",
    "real": "messages of the real run",
}
QEMU_CHECKS = (
    Column("block_order", np.int64, "Order of the reported blocks; 0 for other protocols."),
    *(
        Column(f"{name}_q{i}_ns", np.int64, f"Quartile {i} of single round trips: {what}.")
        for name, what in _TRIPS.items()
        for i in (1, 2, 3)
    ),
    Column("skipped_cpu_ns", np.int64, "QEMU's processor time for a message passed over."),
    Column("real_cpu_ns", np.int64, "QEMU's processor time per kick of the real run."),
)
"""Of repeats in QEMU besides; see `balloonlab.measurement.stages_by_difference`."""

_TIMES = {
    "exit": "kicks that nobody listens to, there and back",
    "awake": "kick to the host's thread awake",
    "answer": "the host's answer to the driver running again",
    "mapped_discard": "madvise of a page that the virtual machine has mapped",
    "unmapped_discard": "madvise of a page that it has not",
}
KVM_CHECKS = (
    *(
        Column(f"{name}_q{i}_ns", np.int64, f"Quartile {i}: {what}.")
        for name, what in _TIMES.items()
        for i in (1, 2, 3)
    ),
    Column("n_waits", np.int64, "How often the driver waited outside the virtual machine."),
    Column("n_exits", np.int64, "How often that was left: to wait, and to return."),
    Column("clock_error_ns", np.int64, "How far the driver's clock may be off the host's."),
    Column("clock_error_ppb", np.int64, "And how far its rate, in parts in 10**9."),
)
"""Of repeats in a KVM virtual machine besides; see `balloonlab.measurement.on_kvm`."""

STEPS = 1, 64, 128, 256
"""Pages of a step in a Linux guest, up to what its driver sends at a time."""

LINUX_CHECKS = (
    Column("guest_fall_bytes", np.int64, "Fall of the guest's MemTotal (of hinting: MemFree)."),
    Column("kept_pages", np.int64, "Pages of a file of the guest that it found unchanged."),
    Column("page_ns", np.int64, "The guest's time per page: slope over the steps."),
    Column("page_low_ns", np.int64, "Its 95 % interval over the rounds: low end."),
    Column("page_high_ns", np.int64, "Its 95 % interval over the rounds: high end."),
    *(
        Column(f"step_{n}_ns", np.int64, f"Median of the guest's time for a step of {n} pages.")
        for n in STEPS
    ),
)
"""Of repeats with Linux's driver besides; see `balloonlab.measurement.stages_of_linux`. 0 where
there were no steps."""

SKIPPED = (
    _RUN,
    _SOURCE,
    *map(_of_option, _CHOSEN),
    Column("outcome", str, "skipped (it cannot be) or failed (it went wrong)."),
    Column("reason", str, "The error's message."),
)
"""One row per case of which there is no result."""

COLUMNS, CHECK_COLUMNS, SKIPPED_COLUMNS = (
    [column.name for column in table] for table in (FRAME, CHECKS, SKIPPED)
)

OWN_CHECKS = {
    "lab": [column.name for column in FREED_CHECKS],
    "qemu": [column.name for column in (*FREED_CHECKS, *QEMU_CHECKS)],
    "kvm": [column.name for column in (*FREED_CHECKS, *KVM_CHECKS)],
    "linux": [column.name for column in LINUX_CHECKS],
}
"""Columns of the checks that only repeats of one source have; blank for those of others."""

EARLIER: dict[str, Any] = {
    **{"vectors": 0, "threads": 1, "collect": 1, "allocation": "page"},
    "start": 0,
    **{"kick_pages": PFNS_PER_BUFFER, "in_flight": 1, "backing": "anonymous", "verb": "dontneed"},
}
"""What columns were that runs of earlier versions lack: there was no other way."""

EARLIER_LINUX = {"backing": "memfd", "verb": "remove"}
"""The same where Linux ran the driver."""

DTYPES: dict[str, type] = {
    column.name: column.dtype
    for table in (FRAME, CHECKS, FREED_CHECKS, QEMU_CHECKS, KVM_CHECKS, LINUX_CHECKS, SKIPPED)
    for column in table
}
"""Types of columns. Left to pandas, a ``run_id`` such as ``92e710452837`` is read as infinity."""


def columns() -> pd.DataFrame:
    """Return the column dictionary: every column of the tidy frame, the checks, the skipped cases.

    Returns
    -------
    pandas.DataFrame
        ``table`` (``frame``, ``checks``, ``freed checks``, ``qemu checks``, ``kvm checks``,
        ``linux checks`` or ``skipped``), ``name``, ``unit`` (``ns``, ``bytes``, ``count`` or
        empty), ``dtype``, ``meaning``.

    Examples
    --------
    >>> columns().query("name == 'time_ns'")["unit"].tolist()
    ['ns']
    """
    tables = {"frame": FRAME, "checks": CHECKS}
    tables |= {"freed checks": FREED_CHECKS, "qemu checks": QEMU_CHECKS}
    tables |= {"kvm checks": KVM_CHECKS, "linux checks": LINUX_CHECKS, "skipped": SKIPPED}
    rows = [
        (table, column.name, column.unit, column.dtype.__name__, column.meaning)
        for table, members in tables.items()
        for column in members
    ]
    return pd.DataFrame(rows, columns=["table", "name", "unit", "dtype", "meaning"])


def empty(names: Iterable[str]) -> pd.DataFrame:
    """Return a table without rows, its columns of the right types."""
    return pd.DataFrame({name: pd.Series(dtype=DTYPES[name]) for name in names})


def stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return tables with the same columns below each other."""
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True)


def check_columns(frame: Any, columns: Iterable[str], argument: str, made_by: str) -> None:
    """Refuse what is no table with these columns (ValueError); `made_by` says what returns one."""
    there = frame.columns if isinstance(frame, pd.DataFrame) else ()
    if missing := [name for name in columns if name not in there]:
        raise ValueError(
            f"{argument} must be what balloonlab.{made_by} returns, got a "
            f"{type(frame).__name__} without {', '.join(missing)}"
        )


def as_frame(data: Any, name: str = "frame") -> pd.DataFrame:
    """Return the tidy frame of a run or reproduction, or the frame itself (else TypeError)."""
    frame = getattr(data, "frame", data)
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{name} must be a run or its tidy frame, got {type(data).__name__}")
    return frame
