"""Who runs the driver: a thread of this process, in compiled code without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from ..queue import Worker


def run_in_thread(
    operate: Callable[[], int],
    abort: Callable[[], None],
    settle: Callable[[int], None],
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Run an operation of the driver; both ends have left when this raises.

    `operate`, the compiled call, returns how many pages it has dealt with, and so does this.
    `abort` is called when the run is interrupted: `operate` must return then. `settle` is called
    with what `operate` returned, whether or not it went on to its end. `beside` is entered, by
    that thread, while it runs.
    """
    worker = Worker(partial(_within, beside, operate), "balloon-driver")
    try:
        worker.start()
        worker.wait()
    except BaseException:
        try:
            abort()
        finally:  # whatever a second Ctrl-C interrupts, the books are kept
            try:
                worker.join()
            finally:
                settle(int(worker.result() or 0))
        raise
    n_done = int(worker.result() or 0)
    settle(n_done)
    return n_done


def _within(beside: Callable[[], AbstractContextManager[None]], operate: Callable[[], int]) -> int:
    with beside():
        return operate()
