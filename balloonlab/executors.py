"""Many machines: pure functions over an executor of `concurrent.futures`, or a dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def check_executor(executor: Any) -> None:
    """Check that something takes work (TypeError); None stands for this process."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            "executor must be of concurrent.futures or a dask.distributed client (it has "
            f"submit), got {type(executor).__name__}"
        )


def is_dask(executor: Any) -> bool:
    """Return whether an executor is a client of ``dask.distributed``."""
    return type(executor).__module__.partition(".")[0] == "distributed"


def spread(function: Callable[[T], R], items: Iterable[T], executor: Any = None) -> list[R]:
    """Return what a function makes of each item, in their order.

    Parameters
    ----------
    function : callable
        Of one argument, and without side effects: a lost worker's items are done again by dask.
        For processes and other machines it must be importable there.
    items : iterable
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Where it is done; in this process by default. A TypeError for anything else.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as executor:
    ...     spread(abs, [-1, 2, -3], executor)
    [1, 2, 3]
    """
    check_executor(executor)
    if executor is None:
        return [function(item) for item in items]
    # Equal items are equal work to dask unless told otherwise, which is right: they are pure.
    futures = [executor.submit(function, item) for item in items]
    return [future.result() for future in futures]
