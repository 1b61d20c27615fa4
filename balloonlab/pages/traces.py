"""Page orders recorded from real Linux guests: the pages each sent to its balloon device, in order.

``balloonlab capture`` records them (`balloonlab.capture`); those in ``data/traces/`` come with
balloonlab. A trace is named after the guest's state, its memory, the share of it that the
balloon was to take in percent, and the operation: ``tmpfs50-8GiB-85-inflate``. One of a Linux that
is a process begins with ``linux-`` and has its seed: ``linux-tmpfs50-8GiB-85-s1-inflate``. As a
pattern it is ``trace:`` and the name, or ``trace:FOLDER/NAME`` in a folder of one's own.

A folder of traces has for each guest a ``.json`` file, which records how it was made and lists
its traces, and for each trace a ``.pfns.xz`` file (`balloonlab.pages.codec`), except where it is
the reverse of another, as a deflation mostly is.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import datasets
from ..address_map import check_sizes
from ..sizes import PAGE_BYTES, Size, format_size
from . import codec, metrics
from .checks import as_pfns, duplicates_message
from .scattered import too_large

__all__ = ["encoding_summary", "index", "load", "names", "write"]

PREFIX = "trace:"
"""Begins the spelling of a trace as a pattern."""

NATIVE = "linux-"
"""Begins the name of a trace of a Linux that is a process."""

ENDING = ".pfns.xz"
HUGE_ORDER = 9

COLUMNS = (
    "name", "source", "guest", "state", "description", "memory_bytes", "share", "operation",
    "cycle", "n_pages", "balloon_bytes", "n_moved", "unusable_index", "buddyinfo_before",
    "buddyinfo_after",
    "seed", "workload", "kernel", "command_line", "thp", "qemu", "accelerator", "utc_time",
    "reverse_of", "digest",
)  # fmt: skip
"""Of `index`; all but `_DERIVED` are keys of a guest or of its traces."""

_DERIVED = ("source", "guest", "n_pages", "balloon_bytes", "unusable_index", "reverse_of", "digest")

_NAME = re.compile(
    r"(?P<guest>(linux-)?[a-z0-9]+-[0-9]+[KMG]iB-[0-9]+(-s[0-9]+)?)-(inflate|deflate)(-[0-9]+)?"
)

Folder = str | os.PathLike[str]


def names(folder: Folder | None = None) -> list[str]:
    """List traces, guest by guest.

    Parameters
    ----------
    folder : path-like, optional
        Where they are; by default those that come with balloonlab.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such folder; a description in it is damaged.

    Examples
    --------
    >>> names()[-2:]
    ['tmpfs70-8GiB-85-inflate', 'tmpfs70-8GiB-85-deflate']
    """
    return [trace["name"] for guest in _guests(folder) for trace in guest["traces"]]


def load(name: str, folder: Folder | None = None) -> npt.NDArray[np.uint64]:
    """Load the pages of a trace, one of `names`, in the order in which the guest sent them.

    Returns
    -------
    uint64 array, shape (n,)
        Each page once; all are RAM by `balloonlab.address_map.ram_ranges` of the guest's memory.

    Raises
    ------
    ValueError, FileNotFoundError
        No such trace, or its file is damaged; there is no such folder.

    Examples
    --------
    >>> load("idle-2GiB-85-inflate")[:3]
    array([...], dtype=uint64)
    """
    _, trace = _find(name, folder)
    if trace["reverse_of"] is not None:  # and that may be the reverse of another
        pages = load(trace["reverse_of"], folder)[::-1].copy()
    else:
        path = _folder(folder) / f"{name}{ENDING}"
        try:
            pages = codec.decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"trace {name!r} cannot be read from {path}: {error}") from None
    if pages.size != trace["n_pages"] or digest(pages) != trace["digest"]:
        raise ValueError(
            f"trace {name!r} is damaged: it holds {pages.size} pages with the digest "
            f"{digest(pages)}, recorded were {trace['n_pages']} with {trace['digest']}"
        )
    return pages


def index(folder: Folder | None = None) -> pd.DataFrame:
    """Describe the traces of a folder as in `names`, one row per trace.

    Returns
    -------
    pandas.DataFrame
        ``name``, ``source`` (``trace``), ``guest`` (``qemu``: a PC; ``linux``: a Linux that is a
        process, with one zone of memory), ``state`` and its ``description``, ``memory_bytes``,
        ``share`` (asked for), ``operation``, ``cycle`` (from 1), ``n_pages``,
        ``balloon_bytes``, ``n_moved`` (pages sent besides, since the guest migrated
        them), ``unusable_index`` (of huge pages before the operation, all zones together; see
        `balloonlab.pages.metrics.unusable_index`), ``buddyinfo_before`` and
        ``buddyinfo_after`` (free blocks of order 0, 1 and so on by zone), ``seed``,
        ``workload``, ``kernel``, ``command_line``, ``thp``, ``qemu``, ``accelerator`` (kvm
        or tcg; a User-Mode Linux has no QEMU), ``utc_time``, ``reverse_of`` (the trace that
        this one reverses, if any), ``digest``.

    Examples
    --------
    >>> index()["source"].unique().tolist()
    ['trace']
    """
    rows = [guest | trace for guest in _guests(folder) for trace in guest["traces"]]
    for row in rows:
        blocks = np.sum(list(row["buddyinfo_before"].values()), axis=0)
        row["source"] = "trace"
        row["guest"] = "linux" if row["name"].startswith(NATIVE) else "qemu"
        row["reverse_of"] = row["reverse_of"] or ""
        row["balloon_bytes"] = row["n_pages"] * PAGE_BYTES
        row["unusable_index"] = metrics.unusable_index(blocks)[HUGE_ORDER]
    return pd.DataFrame(rows, columns=COLUMNS)


def encoding_summary(folder: Folder | None = None) -> pd.DataFrame:
    """Summarize every inflation as ``bitmap-v4`` encodes it: how full bitmaps of real guests are.

    Returns
    -------
    pandas.DataFrame
        ``name``, ``source``, ``guest``, ``state``, ``seed``, ``memory_bytes``, ``share`` and
        ``cycle`` as in `index`, then the columns of `balloonlab.pages.metrics.encoding_summary`.
    """
    frame = index(folder).query("operation == 'inflate'")
    kept = ["name", "source", "guest", "state", "seed", "memory_bytes", "share", "cycle"]
    frame = frame[kept]

    def summary_of(name: str) -> pd.DataFrame:
        return metrics.encoding_summary({name: load(name, folder)})

    # Xz, blake2b and numpy let other threads run; each holds a trace some ten times over.
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(summary_of, frame["name"]))
    return frame.merge(pd.concat(rows), on="name") if rows else frame


def sizes(spelling: str) -> tuple[int, int]:
    """Return the guest's memory and the size of a trace (``NAME``, ``FOLDER/NAME``), in pages."""
    guest, trace = _find(*_split(spelling))
    return guest["memory_bytes"] // PAGE_BYTES, trace["n_pages"]


def first_pages(spelling: str, memory: Size, balloon: Size) -> npt.NDArray[np.uint64]:
    """Return the first pages of a trace, for a balloon that may be smaller than it.

    As `load` of ``NAME`` or ``FOLDER/NAME``; besides, another memory than the recorded guest's and
    a balloon larger than the trace raise ``ValueError``.
    """
    recorded_pages, n_pages = sizes(spelling)
    memory_pages, balloon_pages = check_sizes(memory, balloon)
    if memory_pages != recorded_pages:
        raise ValueError(
            f"memory must be {format_size(recorded_pages * PAGE_BYTES)} with pattern "
            f"{PREFIX}{spelling}, as the recorded guest had, or left out, got {memory!r}"
        )
    if balloon_pages > n_pages:
        name = f"{PREFIX}{spelling}"
        raise too_large(name, memory, balloon, n_pages, "another trace or pattern")
    return load(*_split(spelling))[:balloon_pages]


def write(folder: Folder, guest: Mapping[str, Any], pages: Mapping[str, npt.ArrayLike]) -> None:
    """Write the traces of a guest to a folder, which is made if need be.

    The ``.json`` file comes last: with it the set is whole.

    Parameters
    ----------
    guest : mapping
        How they were made; ``name`` names the guest, ``traces`` lists a mapping for each
        trace, to which ``n_pages``, ``digest`` and ``reverse_of`` are added.
    pages : mapping of str to array-like of int
        Pages by the name of their trace.

    Raises
    ------
    TypeError, ValueError
        No page numbers, or a page is repeated; nothing is written then.
    """
    if lacking := _lacking(guest):
        raise ValueError(f"guest must say how its traces were made, it lacks {lacking}")
    checked = {trace["name"]: as_pfns(pages[trace["name"]]) for trace in guest["traces"]}
    for name, own in checked.items():
        if np.unique(own).size != own.size:
            raise ValueError(duplicates_message(own, f"pages of trace {name!r}"))
    top = Path(folder)
    top.mkdir(parents=True, exist_ok=True)
    traces: list[dict[str, Any]] = []
    for trace, (name, own) in zip(guest["traces"], checked.items(), strict=True):
        earlier = (t["name"] for t in traces if np.array_equal(own[::-1], checked[t["name"]]))
        twin = next(earlier, None)
        traces.append({**trace, "n_pages": own.size, "digest": digest(own), "reverse_of": twin})
        if twin is None:
            (top / f"{name}{ENDING}").write_bytes(codec.encode(own))
    draft = top / f"{guest['name']}.tmp"
    draft.write_text(json.dumps({**guest, "traces": traces}, indent=1) + "\n")
    draft.replace(top / f"{guest['name']}.json")


def digest(pfns: npt.NDArray[np.uint64]) -> str:
    """Return a name of a list of pages by its content: 32 hexadecimal digits."""
    return blake2b(pfns.astype("<u8").tobytes(), digest_size=16).hexdigest()


def _state(name: str) -> str:
    return name.removeprefix(NATIVE).partition("-")[0]


def _split(spelling: str) -> tuple[str, Folder | None]:
    """Split ``FOLDER/NAME`` at its last slash; no folder where there is none."""
    folder, slash, name = spelling.rpartition("/")
    return name, (folder or "/") if slash else None


def _folder(folder: Folder | None) -> Path:
    path = datasets.path("traces") if folder is None else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder of traces {path}")
    return path


def _read_guest(path: Path) -> dict[str, Any]:
    try:
        guest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}; capture it again") from None
    if not isinstance(guest, dict) or "traces" not in guest:
        raise ValueError(f"{path} must describe traces of a guest; move it out of the folder")
    if lacking := _lacking(guest):
        raise ValueError(f"{path} lacks {lacking}; capture it again, or move it out of the folder")
    return guest


def _lacking(guest: Mapping[str, Any]) -> str:
    """List the keys that a guest and its traces lack."""
    known = [{*guest, *trace} for trace in guest["traces"]] or [set(guest)]
    needed = (name for name in COLUMNS if name not in _DERIVED)
    return ", ".join(name for name in needed if not all(name in keys for keys in known))


def _guests(folder: Folder | None) -> list[dict[str, Any]]:
    guests = [_read_guest(path) for path in sorted(_folder(folder).glob("*.json"))]
    return sorted(guests, key=lambda guest: (guest["state"], guest["memory_bytes"], guest["share"]))


def _find(name: str, folder: Folder | None) -> tuple[dict[str, Any], dict[str, Any]]:
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    path = _folder(folder) / f"{match['guest']}.json" if match else None
    if path is not None and path.exists():
        guest = _read_guest(path)
        for trace in guest["traces"]:
            if trace["name"] == name:
                return guest, trace
    known = names(folder)
    states = {one: _state(one) for one in known}
    state = difflib.get_close_matches(_state(str(name)), set(states.values()), n=1)
    alike = [one for one in known if states[one] in state] or known
    near = difflib.get_close_matches(str(name), alike, n=3, cutoff=0)
    nearest = f"; the nearest are {', '.join(near)}" if near else ""
    own = "" if folder is None else repr(str(folder))
    raise ValueError(f"trace must be one of balloonlab.traces.names({own}), got {name!r}{nearest}")


def __dir__() -> list[str]:
    return __all__
