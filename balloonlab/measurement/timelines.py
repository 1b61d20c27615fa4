"""The timeline of one inflation: every interval that guest and host logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Never, Unpack

import numpy as np
import pandas as pd

from ..guest import InVcpu
from ..kernels import clock
from .case import Case
from .checks import check_after, check_before, none_lost
from .on_lab import FLOOR, operate, sent_pages
from .options import Options, PathLike, takes_options
from .provenance import describe_machine
from .reading import META
from .resources import check_available, check_facilities
from .runner import alone
from .setups import check_rules, make_case, setup_of
from .store import check_out, write_table

TIMELINE = "timeline.csv"

NAMES = {
    clock.ALLOCATE: "allocate", clock.PACK: "pack", clock.ROUND_TRIP: "round trip",
    clock.DECODE: "decode", clock.TRANSLATE: "translate", clock.DISCARD: "discard",
    clock.RELEASE: "release", clock.KICK: "kick", clock.WAIT: "wait",
}  # fmt: skip
"""What the two ends log; the guest's round trip spans the host's intervals and both wake-ups."""


@takes_options()
def timeline(
    *, out: PathLike | None = None, progress: bool = True, **options: Unpack[Options[Never]]
) -> pd.DataFrame:
    """Run one operation and return every interval of both ends.

    The first run is a warm-up and dropped; nothing is averaged.

    Parameters
    ----------
    {options}
    out : path-like, optional
        Folder for ``timeline.csv`` and ``meta.json``; an earlier timeline is set aside.
    progress : bool
        Without effect, as ``repeats``.

    Returns
    -------
    pandas.DataFrame
        One row per interval, by begin: ``end`` (``guest`` or ``host``), ``stage``, ``begin_ns`` and
        ``end_ns`` since the operation began. ``attrs`` holds the case's ``source``, ``protocol``,
        ``discard``, ``touched``, ``memory_bytes`` and ``balloon_bytes``. Errors as of
        `balloonlab.measure`.
    """
    if out is not None:
        check_out(out, TIMELINE)
    case = make_case(**options)
    for name, some in (("host", ("lab",)), ("guest", ("thread", "kvm"))):
        if (got := getattr(case, name)) not in some:
            rule = f"{name} must be {' or '.join(map(repr, some))} for a timeline"
            raise ValueError(f"{rule}, got {got!r}: leave {name} out")
    if case.protocol == FLOOR:
        raise ValueError(f"protocol must have messages for a timeline, got {FLOOR!r}")
    check_rules(case)
    check_available(case.memory_bytes, case.touched)
    check_facilities()
    case = case.with_pages()
    with alone():
        frame = _run_once(case)
    if out is not None:
        write_table(frame, describe_machine() | {"case": frame.attrs}, out, TIMELINE)
    return frame


def _run_once(case: Case) -> pd.DataFrame:
    setup = setup_of(case)
    setup.describe(case)
    ram = setup.share(case)
    for _ in range(2):
        with setup.use(case, ram) as guest:
            if case.touched:
                guest.touch()
            check_before(case, ram)
            done = operate(case, ram, InVcpu(guest.vcpu) if case.guest == "kvm" else None)
            count_lost = guest.count_lost if case.touched else none_lost
            check_after(case, ram, sent_pages(case, ram, done), count_lost)
    logs = done.log, done.devices[case.operation].log
    guest, host = (log.rows[: log.length[0]] for log in logs)
    stages, begin_ns, end_ns = np.concatenate([guest, host]).T
    frame = pd.DataFrame(
        {
            "end": np.repeat(["guest", "host"], [len(guest), len(host)]),
            "stage": [NAMES[stage] for stage in stages],
            "begin_ns": begin_ns - guest[0, 1],
            "end_ns": end_ns - guest[0, 1],
        }
    )
    names = ("source", "protocol", "discard", "touched", "memory_bytes", "balloon_bytes")
    frame.attrs = {name: getattr(case, name) for name in names}
    return frame.sort_values("begin_ns", ignore_index=True)


def load_timeline(folder: PathLike) -> pd.DataFrame:
    """Return what `timeline` or ``balloonlab timeline`` stored, as `timeline` does.

    Parameters
    ----------
    folder : path-like
        What ``out=`` was; FileNotFoundError where it holds no timeline.
    """
    if not (Path(folder) / TIMELINE).is_file():
        rule = "folder must hold a stored timeline (out= of balloonlab.timeline)"
        raise FileNotFoundError(f"{rule}, got {folder}: balloonlab.load reads runs")
    frame = pd.read_csv(Path(folder) / TIMELINE)
    frame.attrs = json.loads((Path(folder) / META).read_text())["case"]
    return frame
