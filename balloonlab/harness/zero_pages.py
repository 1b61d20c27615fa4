"""The bitmap in the other direction: a device answers which pages are zero already."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..freeing.turns import check_arguments, keep
from ..host import GuestRam, Policy
from ..host.crew import Crew
from ..host.ram import bits_of
from ..kernels import zero_answer as kernels
from ..measurement.options import PathLike
from ..measurement.provenance import describe_machine
from ..measurement.resources import check_available
from ..measurement.runner import alone
from ..measurement.stages import WARM_UP
from ..sizes import PAGE_BYTES, Size, parse_pages
from ..terminal import Progress

TABLE = "zero-pages.csv"
SHARES = (0.0, 0.5, 1.0)
COLUMNS = ["source", "memory_bytes", "zero_share", "answer", "repeat", "n_pages", "n_words"]
COLUMNS += ["answer_ns", "ready_ns", "use_ns"]


def zero_pages(
    memory: Size = "256MiB",
    shares: float | tuple[float, ...] = SHARES,
    repeats: int = 5,
    out: PathLike | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Give pages back to a guest that must have them zero, with and without the device's answer.

    Half of the pages, at random, leave the balloon. Of these a share was discarded by the host,
    which knows that it reads zero; the rest it kept. With the answer (the bitmap that the guest
    would send, in the other direction: virtio-spec issues 242 and 244 of 2026) the guest clears
    only the rest; without it all. Then it uses every page: what was not cleared is faulted in here.
    By a thread (``lab``), without a queue: kernels and memory alone.

    Parameters
    ----------
    memory : int or str
        RAM of the guest.
    shares : float or tuple of float
        Of the pages that come back, those that are zero already; from 0 to 1.
    repeats : int
        Measured repeats of each, after a warm-up.
    out : path-like, optional
        Folder for ``zero-pages.csv`` and ``meta.json``; an earlier table is set aside.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row for each share, with ``answer`` and without, and repeat: ``n_pages`` that come back,
        ``n_words`` of 64 bits in the answer; ``answer_ns`` to make it, ``ready_ns`` until all pages
        are known to be zero, ``use_ns`` of a write to each of them then. Errors as of
        `balloonlab.measure`; a RuntimeError where a page is not zero.

    Examples
    --------
    >>> from balloonlab.harness import zero_pages
    >>> frame = zero_pages("8MiB", (1.0,), repeats=1, progress=False)
    >>> frame[["answer", "n_pages"]].to_numpy().tolist()
    [[False, 1024], [True, 1024]]
    """
    check_arguments(out, TABLE, repeats)
    given = np.atleast_1d(shares)
    if given.size == 0 or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"shares must be numbers from 0 to 1, got {shares!r}")
    memory_pages = parse_pages(memory, "memory")
    if memory_pages % 2 or not memory_pages:
        raise ValueError(f"memory must be an even number of 4 KiB pages, got {memory!r}")
    check_available(memory_pages * PAGE_BYTES, True)
    meta, rows, rng = describe_machine(), list[dict[str, Any]](), np.random.default_rng(0)
    cases = [(float(share), answer) for share in given for answer in (False, True)]
    with alone(), Progress(len(cases) * (repeats + 1), progress) as bar:
        ram = GuestRam(memory_pages)
        for number in range(WARM_UP, repeats):
            for i in rng.permutation(len(cases)):
                share, answer = cases[i]
                row = _give_back(ram, share, answer)
                row |= {"zero_share": share, "answer": answer, "repeat": number}
                rows += [row] if number != WARM_UP else []
                bar.advance()
    frame = pd.DataFrame(rows).sort_values(["zero_share", "answer", "repeat"], ignore_index=True)
    frame = frame.assign(source="lab", memory_bytes=memory_pages * PAGE_BYTES)[COLUMNS]
    keep(frame, meta, out, TABLE, memory_bytes=memory_pages * PAGE_BYTES, shares=given.tolist())
    return frame


def _give_back(ram: GuestRam, share: float, answer: bool) -> dict[str, Any]:
    """Do one repeat; return its counts and times."""
    rng = np.random.default_rng(1)
    asked = rng.random(ram.memory_pages) < 0.5
    asked[::2] = ~asked[1::2]  # half of them, whatever is drawn
    discarded = asked & (rng.random(ram.memory_pages) < share)
    ram.renew()
    ram.touch()
    _discard(ram, discarded)
    words, known = bits_of(asked), bits_of(discarded)
    told, memory = np.zeros_like(words), ram.memory.ram.view(np.uint64)
    clock = time.perf_counter_ns
    begin = clock()
    n_words = kernels.answer_zero(words, known, told) if answer else 0
    answered = clock()
    n_cleared = kernels.clear_others(words, told, memory)
    ready = clock()
    _check(ram, discarded if not answer else asked & ~discarded, n_cleared, answer)
    used = clock()
    n_pages = kernels.write_word(words, memory)
    done = clock()
    return {
        "n_pages": n_pages,
        "n_words": n_words,
        "answer_ns": answered - begin,
        "ready_ns": ready - begin,
        "use_ns": done - used,
    }


def _discard(ram: GuestRam, pages: npt.NDArray[np.bool_]) -> None:
    offsets = np.flatnonzero(pages) * PAGE_BYTES
    extents = np.column_stack([offsets, np.full_like(offsets, PAGE_BYTES)])
    if offsets.size:
        with Crew(Policy("range"), ram.memory, ram.verb(), len(extents)) as crew:
            crew.timed_discard(extents, np.zeros(2, np.int64))


def _check(ram: GuestRam, pages: npt.NDArray[np.bool_], n_cleared: int, answer: bool) -> None:
    """Check a page in some hundreds of those that were cleared: reading others would back them."""
    some = np.flatnonzero(pages)[::101]
    wrong = ram.memory.ram.reshape(-1, PAGE_BYTES)[some].any(axis=1).sum()
    if wrong or (answer and n_cleared != pages.sum()):
        raise RuntimeError(
            f"{n_cleared} pages were cleared, and {wrong} of {some.size} looked at are not zero; "
            "nothing is reported"
        )


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ns per page: a row per share, with the answer and without; medians.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `zero_pages` returns.

    Returns
    -------
    pandas.DataFrame
        ``zero_share``, ``answer``, ``answer_ns``, ``ready_ns`` with ``least`` and ``greatest`` of
        the repeats, ``use_ns`` and ``whole_ns`` (ready and used), each per page that comes back.
    """
    names = ["answer_ns", "ready_ns", "use_ns"]
    per_page = frame[names].div(frame["n_pages"], axis=0)
    per_page["whole_ns"] = per_page["ready_ns"] + per_page["use_ns"]
    groups = per_page.groupby([frame["zero_share"], frame["answer"]])
    table = groups.median()
    table["least_ready_ns"] = groups["ready_ns"].min()
    table["greatest_ready_ns"] = groups["ready_ns"].max()
    return table.reset_index()
