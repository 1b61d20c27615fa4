"""What measurements beside a run share: their checks, cases that take turns, the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from ..measurement.case import Case
from ..measurement.options import PathLike, check_number
from ..measurement.provenance import describe_machine
from ..measurement.resources import check_available, check_facilities
from ..measurement.runner import alone
from ..measurement.setups import check_rules, setup_of
from ..measurement.stages import WARM_UP
from ..measurement.store import check_out, write_table
from ..terminal import Progress

Once = Callable[[Case, Any], Iterable[dict[str, Any]]]
"""Does one repeat of a case on the memory that it shares; returns its rows."""


def check_arguments(out: PathLike | None, table: str, repeats: int) -> None:
    """Refuse a folder, a number of repeats and a platform that will not do, before the work."""
    if out is not None:
        check_out(out, table)
    check_facilities()
    check_number("repeats", repeats, 1)


def take_turns(
    cases: list[Case], repeats: int, progress: bool, once: Once
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Measure cases in turns; return the rows that `once` gives, and what they were measured on.

    Each row gets its ``repeat``. Cases of one kind of memory share it and come in another order
    each round; one kind is mapped at a time. A warm-up of each is dropped.
    """
    meta = describe_machine()
    kinds: dict[Any, list[Case]] = {}
    for case in cases:
        check_rules(case)
        check_available(case.memory_bytes, case.touched)
        meta |= setup_of(case).describe(case)
        kind = setup_of(case).share, case.backing, case.memory_pages, case.thp
        kinds.setdefault(kind, []).append(case)
    rows, rng = list[dict[str, Any]](), np.random.default_rng(0)
    with alone(), Progress(len(cases) * (repeats + 1), progress) as bar:
        for group in kinds.values():
            shared = setup_of(group[0]).share(group[0])
            for number in range(WARM_UP, repeats):
                for i in rng.permutation(len(group)):
                    bar.describe(group[i].label())
                    found = once(group[i], shared)
                    rows += [row | {"repeat": number} for row in found if number != WARM_UP]
                    bar.advance()
            del shared
    return pd.DataFrame(rows), meta


def keep(
    frame: pd.DataFrame, meta: dict[str, Any], out: PathLike | None, table: str, **arguments: Any
) -> None:
    """Write the table, where a folder was named, with the `arguments` it was asked for with."""
    if out is not None:
        command = table.removesuffix(".csv")
        write_table(frame, meta | {"command": command, "arguments": arguments}, out, table)
