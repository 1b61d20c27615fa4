"""A thread of one end of a queue, and what became of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Run a function in a thread; keep what it returned or raised.

    ``Thread.join`` counts as done once it was interrupted, while the thread still runs. Here
    nothing but the function's end does: typically a compiled call that holds no GIL.
    """

    def __init__(self, function: Callable[[], T], name: str) -> None:
        self._function = function
        self._done = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait(self) -> None:
        """Wait for the end; may be interrupted."""
        while not self._done.wait(0.1):
            pass

    def wait_for(self, seconds: float) -> bool:
        """Wait for the end at most so long; return whether it came."""
        return self._done.wait(seconds)

    def join(self) -> None:
        """Wait for the end, however often the user presses Ctrl-C; then pass that on.

        Returns at once where the thread never came to life.
        """
        interrupt: KeyboardInterrupt | None = None
        while self._thread.ident is not None and not self._done.is_set():
            try:
                self.wait()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def result(self) -> T | None:
        """Return what the function returned (None before its end), or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        finally:
            del self._function  # a cycle: guest RAM would stay mapped until the collector runs
            self._done.set()
