"""Measuring on many machines: the cases of a sweep over an executor, one at a time on each machine.

Every case is a run of its own, stored in a folder of its own as soon as it is there. What a worker
measures when it is lost is lost, or done again where the executor does so (dask); nothing else is.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pandas as pd

from ..executors import check_executor, is_dask
from ..terminal import Progress
from .case import Case, digest
from .options import PathLike
from .reading import META, check_alike, load
from .run import Run
from .runner import run_cases
from .store import Store, check_out
from .tables import SKIPPED_COLUMNS, empty, stack

RESOURCE = "machine"
"""What a dask worker has one of, and a case takes: ``dask worker --resources machine=1``."""

LOCK = "balloonlab-measuring.lock"


@dataclass(frozen=True, repr=False)
class Fleet:
    """What the machines of a fleet gave.

    Attributes
    ----------
    runs : dict of str to Run
        By the machine; none is pooled with another.
    lost : pandas.DataFrame
        ``case`` and ``reason`` of cases whose worker was lost or failed: the same call with the
        same ``out`` measures them.
    """

    runs: dict[str, Run]
    lost: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["case", "reason"]))

    @property
    def rows(self) -> pd.DataFrame:
        """All measured rows, with their ``machine``: to be drawn side by side, not to be pooled.

        Name ``machine`` among the series of a figure.
        """
        tables = [run.frame.assign(machine=name) for name, run in self.runs.items()]
        return stack(tables) if tables else pd.DataFrame()

    @property
    def frame(self) -> pd.DataFrame:
        """`rows`, where all machines are alike (else ValueError)."""
        metas = {name: run.meta for name, run in self.runs.items()}
        check_alike(metas, "take them one by one from runs, or draw rows by machine")
        return self.rows

    def __repr__(self) -> str:
        parts = [
            f"{name}: {run.frame['run_id'].nunique()} cases" for name, run in self.runs.items()
        ]
        return f"<Fleet: {'; '.join(parts)}; {len(self.lost)} lost>"


def machine_name(meta: dict[str, Any]) -> str:
    """Return what rows call a machine: its name, processor and kernel."""
    return ", ".join(str(meta.get(name)) for name in ("node", "cpu_model", "kernel"))


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other worker of this machine measures."""
    from fcntl import LOCK_EX, flock  # Linux, as all that measures

    with (Path(gettempdir()) / LOCK).open("w") as file:
        flock(file, LOCK_EX)
        yield


def measure_one(case: Case, command: str, seed: int) -> Run:
    """Measure one case where this runs; its metadata name the machine."""
    with one_at_a_time():
        run = run_cases(
            [case], command, {"case": repr(case)}, seed=seed, strict=False, progress=False
        )
    return Run(run.frame, {**run.meta, "node": platform.node()}, run.checks, run.skipped)


def run_on_fleet(
    cases: list[Case],
    command: str,
    executor: Any,
    *,
    out: PathLike | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Fleet:
    """Measure cases over an executor, or what is missing of them in `out`.

    Errors of a case are rows of its run's skipped cases, or of `Fleet.lost`.
    """
    check_executor(executor)
    if out is not None:
        check_out(out)
    folders = {case: digest(repr(case).encode()) for case in dict.fromkeys(cases)}
    done = {case: _stored(out, name, case) for case, name in folders.items()}
    runs = {case: run for case, run in done.items() if run is not None}
    missing = [case for case in folders if case not in runs]
    lost = []
    work = partial(measure_one, command=command, seed=seed)
    options = {"resources": {RESOURCE: 1}, "pure": False} if _has_resource(executor) else {}
    futures = {executor.submit(work, case, **options): case for case in missing}
    with Progress(len(futures), progress) as bar:
        for future in _as_completed(futures, executor):
            case = futures[future]
            bar.describe(case.label())
            try:
                runs[case] = future.result()
            except Exception as error:  # of whatever kind a lost worker is to the executor
                lost.append({"case": case.label(), "reason": f"{type(error).__name__}: {error}"})
            else:
                _keep(runs[case], out, folders[case])
            bar.advance()
    ordered = [runs[case] for case in folders if case in runs]
    return Fleet(_by_machine(ordered), pd.DataFrame(lost, columns=["case", "reason"]))


def _has_resource(executor: Any) -> bool:
    """Whether a dask cluster's workers say how many cases a machine takes."""
    if not is_dask(executor):
        return False
    workers = executor.scheduler_info()["workers"].values()
    if not all(worker["resources"].get(RESOURCE) for worker in workers):
        raise ValueError(
            "executor must have workers with a machine to measure on, one worker per machine: "
            "start each with 'dask worker --resources machine=1'"
        )
    return True


def _as_completed(futures: Any, executor: Any) -> Any:
    if is_dask(executor):
        from distributed import as_completed

        return as_completed(list(futures))
    from concurrent import futures as standard

    return standard.as_completed(futures)


def _stored(out: PathLike | None, name: str, case: Case) -> Run | None:
    """Return the finished run of a case in the folder, if it is there."""
    if out is None or not (Path(out) / name / META).is_file():
        return None
    meta = json.loads((Path(out) / name / META).read_text())
    if not meta.get("finished") or meta.get("arguments") != {"case": repr(case)}:
        return None
    run = load(Path(out) / name)
    return run if len(run.frame) else None


def _keep(run: Run, out: PathLike | None, name: str) -> None:
    if out is None or run.frame.empty:
        return
    store = Store(Path(out) / name)
    store.write_run(run)
    store.write_meta(run.meta)


def _by_machine(runs: list[Run]) -> dict[str, Run]:
    """Put the runs of each machine together; `check_alike` sees that it stayed the same."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(machine_name(run.meta), []).append(run)
    found = {}
    for name, alike in groups.items():
        metas = {f"case {number}": run.meta for number, run in enumerate(alike)}
        check_alike(metas, "measure them again into another folder")
        first = alike[0].meta
        common = {k: v for k, v in first.items() if all(run.meta.get(k) == v for run in alike)}
        frame, checks, skipped = (
            stack([getattr(run, table) for run in alike])
            for table in ("frame", "checks", "skipped")
        )
        skipped = skipped if len(skipped) else empty(SKIPPED_COLUMNS)
        found[name] = Run(frame, {**common, "pooled": [run.meta for run in alike]}, checks, skipped)
    return found
