"""The one runner: a list of cases, measured in turns, such that an end at any moment costs little.

A machine drifts, so the order of cases is shuffled: first the kinds of memory (guest, host, size,
huge pages, touched or not), each of which is mapped once, since the first touch of memory takes
five times as long as later ones; on each kind the cases take turns, one repeat of every case per
round, in another order each round. Cases with the same pages are neighbours in a round: page sets
are made when their turn comes, and one is held at a time. A case is warmed up right before its
first repeat, and again when a run goes on with it. Where this process is one of several starts of
a run, the first case of each way is: of cases that differ in their pages and their memory alone.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from ..pages import Buddy
from ..terminal import Progress
from .case import Case, digest
from .options import PathLike
from .provenance import describe_machine
from .reading import CHECKS, META, SKIPPED, load
from .resources import check_available, check_facilities, needed_bytes
from .run import Run
from .setups import check_rules, setup_of
from .stages import WARM_UP, Repeat
from .starts import current
from .store import Store, check_out
from .tables import CHECK_COLUMNS, COLUMNS, OWN_CHECKS, SKIPPED_COLUMNS, empty, stack

_MEASURING = threading.Lock()


@contextmanager
def alone() -> Iterator[None]:
    """Keep other threads of this process from measuring meanwhile (RuntimeError)."""
    if not _MEASURING.acquire(blocking=False):
        raise RuntimeError(
            "measurements of one process must follow each other: another thread is measuring, and "
            "the two would share processor, page tables and RSS; wait for it"
        )
    try:
        yield
    finally:
        _MEASURING.release()


def run_cases(
    cases: list[Case],
    command: str,
    arguments: dict[str, Any],
    *,
    out: PathLike | None = None,
    seed: int = 0,
    strict: bool = True,
    progress: bool = True,
    set_aside: bool = False,
    **meta: Any,
) -> Run:
    """Measure cases (equal ones once), or what is missing of them in `out`; errors as `measure`.

    The `command` names who asks; a folder of another command's is refused. A run in `out` goes on
    if it has the same `arguments`, which are as JSON holds them; one that is finished or another
    one is refused, or makes room if `set_aside`. A case that cannot be, or fails, ends a `strict`
    run, and those that cannot be are found before anything is measured; else it is a row of
    `Run.skipped`. `seed` is of the order in which cases are measured; page sets do not depend on
    it. `meta` is metadata besides. Rows of a case follow each other, in the order of `cases`.
    """
    if out is not None:
        check_out(out)
    cases = list(dict.fromkeys(cases))
    check_facilities()
    kinds = {case.source: case for case in cases}
    hosts = (setup_of(case).describe(case).items() for case in kinds.values())  # QEMU's version ...
    machine = describe_machine() | dict(chain.from_iterable(hosts))
    meta = {**machine, "command": command, "arguments": arguments, **meta}
    start = current()
    meta |= {"id": start.run if start else uuid.uuid4().hex}
    meta |= {"sessions": [machine], "finished": False}
    own = (name for source in kinds for name in OWN_CHECKS.get(source, []))
    columns = list(dict.fromkeys([*CHECK_COLUMNS, *own]))
    with alone(), ExitStack() as stack:
        runner = _Runner(cases, seed, strict)
        store, run = None, Run(empty(COLUMNS), meta, empty(columns))
        if out is not None:
            store = Store(out)
            stack.enter_context(store.locked())
            run = store.begin(meta, columns, set_aside)
        return runner.measure(run, store, progress)


def take_turn(case: Case, shared: Any, run_id: str, number: int, bar: Progress) -> Repeat:
    """Bring memory into the state that the case asks for, and run it once."""
    name = "warm-up" if number == WARM_UP else f"repeat {number + 1} of {case.repeats}"
    setup, text = setup_of(case), f"{case.label()}: {name}"
    bar.describe(f"{text}, {setup.opening}" if setup.opening else text)
    with setup.use(case, shared) as guest:
        bar.describe(text)
        if case.touched:
            with bar.bytes("touching memory", case.memory_bytes) as advance:
                guest.touch(advance)
        if not setup.opening:
            return setup.operate(case, guest, run_id, number)
        with bar.bytes(case.operation, case.balloon_bytes) as guest.advance:
            return setup.operate(case, guest, run_id, number)


class _Runner:
    """Cases while they are measured; if `strict`, those that cannot be are refused at once."""

    def __init__(self, cases: list[Case], seed: int, strict: bool) -> None:
        self.cases, self.strict, self.rng = cases, strict, np.random.default_rng(seed)
        self.pages_key: Any = None
        self.start: Buddy | None = None  # the allocator with the pages that were asked for last
        self.warm: set[Case] = set()
        if strict:
            for case in cases:
                check_rules(case)
            largest = max(cases, key=lambda one: needed_bytes(one.memory_bytes, one.touched))
            check_available(largest.memory_bytes, largest.touched)
            for case in cases:
                self._with_pages(case)

    def _with_pages(self, case: Case) -> Case:
        """Return the case with its pages; lets go of other pages before they are made."""
        if self.pages_key != case.pages_key:
            self.pages_key = self.start = None
        ready = case.with_pages(self.start)
        self.pages_key, self.start = case.pages_key, ready.start
        return ready

    def measure(self, run: Run, store: Store | None, progress: bool) -> Run:
        """Make what `run` lacks, one kind of memory after the other; each repeat is stored."""
        self.ids = {case: digest(f"{run.meta['id']} {case!r}".encode()) for case in self.cases}
        unknown = set(run.checks["run_id"]) - set(self.ids.values())
        if store and unknown:
            raise ValueError(
                f"{store.folder / META} is damaged: its id does not fit the run_id of "
                f"{len(unknown)} cases, such as {min(unknown)}: choose another folder"
            )
        done = set(zip(run.checks["run_id"], run.checks["repeat"], strict=True))
        missing = {
            case: [n for n in range(case.repeats) if (run_id, n) not in done]
            for case, run_id in self.ids.items()
        }
        self.left = {case: numbers for case, numbers in missing.items() if numbers}
        self.run, self.store = run, store
        self.frames, self.checks, self.skipped = [run.frame], [run.checks], [run.skipped]
        n_steps = sum(1 + len(numbers) for numbers in self.left.values())
        with Progress(n_steps, progress) as self.bar:
            for kind in self._shuffled_groups(self.left, "memory_key"):
                self._measure_kind(kind)
        return self._finish()

    def _measure_kind(self, kind: list[Case]) -> None:
        """Make round after round of cases on one kind of memory."""
        try:
            check_available(kind[0].memory_bytes, kind[0].touched)
            shared = setup_of(kind[0]).share(kind[0])
        except (MemoryError, ValueError) as error:
            for case in kind:
                self._leave_out(case, error)
            return
        for number in range(max(case.repeats for case in kind)):
            there = [case for case in kind if case in self.left]
            for neighbours in self._shuffled_groups(there, "pages_key"):
                for case in neighbours:
                    if number in self.left.get(case, ()):
                        self._take_turn(case, shared, number)

    def _take_turn(self, case: Case, shared: Any, number: int) -> None:
        """Measure a repeat, after a warm-up if it is the first of the case, or of its way."""
        way = case.way if current() else case
        try:
            check_rules(case)
            ready = self._with_pages(case)
        except (MemoryError, ValueError) as error:
            return self._leave_out(case, error)
        try:
            if way not in self.warm:
                first = setup_of(case).warm_up(ready)
                take_turn(first, shared, self.ids[case], WARM_UP, self.bar)
                self.bar.advance()
                self.warm.add(way)
            repeat = take_turn(ready, shared, self.ids[case], number, self.bar)
        except (MemoryError, RuntimeError, ValueError) as error:  # or the guest has not as much
            return self._leave_out(case, error)
        self.bar.advance()
        self.left[case].remove(number)
        self.frames.append(repeat.frame)
        self.checks.append(pd.DataFrame([repeat.check], columns=self.run.checks.columns))
        if self.store:
            self.store.append(self.frames[-1])
            self.store.append(self.checks[-1], CHECKS)
        return None

    def _leave_out(self, case: Case, error: Exception) -> None:
        if self.strict:
            raise error
        row = {
            "run_id": self.ids[case],
            **case.described(skipped=True),
            "outcome": "failed" if isinstance(error, RuntimeError) else "skipped",
            "reason": str(error) or type(error).__name__,
        }
        self.bar.advance(len(self.left.pop(case)))
        self.skipped.append(pd.DataFrame([row], columns=SKIPPED_COLUMNS))
        if self.store:
            self.store.append(self.skipped[-1], SKIPPED)

    def _shuffled_groups(self, cases: Iterable[Case], key: str) -> list[list[Case]]:
        """Group cases by a property; groups and the cases in each come in random order."""
        groups: dict[Any, list[Case]] = {}
        for case in cases:
            groups.setdefault(getattr(case, key), []).append(case)
        mixed = [[group[i] for i in self.rng.permutation(len(group))] for group in groups.values()]
        return [mixed[i] for i in self.rng.permutation(len(mixed))]

    def _finish(self) -> Run:
        """Return the run, its rows by case, then repeat; those of a repeat stay as they are."""
        places = {run_id: place for place, run_id in enumerate(self.ids.values())}
        frame, checks = (
            table.iloc[np.lexsort((table["repeat"], table["run_id"].map(places)))]
            for table in map(stack, (self.frames, self.checks))
        )
        meta = {**self.run.meta, "finished": True}
        run = Run(frame, meta, checks, stack(self.skipped))
        if self.store:
            self.store.write_run(run)
            self.store.write_meta(meta)
            return load(self.store.folder)
        return run.measured()
