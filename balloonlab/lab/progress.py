"""Progress bars on standard error: steps of a run, and bytes while memory is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from ..sizes import format_size


class Progress:
    """A bar over the steps of a run, and a second one over gigabytes.

    Parameters
    ----------
    n_steps : int
        Steps of the whole run.
    show : bool
        False shows nothing. Bars appear only in a terminal or, where ipywidgets is
        installed, in a notebook; there they leave no output behind.
    """

    def __init__(self, n_steps: int, show: bool = True) -> None:
        console = Console(stderr=True)
        self._in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
        self.shown = show and (console.is_terminal or self._in_notebook)
        self._bars = Bars(
            # In a narrow terminal the text is what wraps, never the time left.
            TextColumn("{task.description}", table_column=Column(no_wrap=False)),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=3600,  # seconds; a step of a large guest takes many
            auto_refresh=False,  # a refreshing thread would run beside timed code
            disable=not self.shown,
        )
        self._n_steps = n_steps
        self._done = 0
        self._task = self._bars.add_task("starting", total=n_steps, amount=f"0/{n_steps}")

    def describe(self, text: str) -> None:
        """Say what is going on."""
        self._bars.update(self._task, description=text, refresh=True)

    def advance(self, n_steps: int = 1) -> None:
        """Finish steps."""
        self._done += n_steps
        amount = f"{self._done}/{self._n_steps}"
        self._bars.update(self._task, completed=self._done, amount=amount, refresh=True)

    @contextmanager
    def bytes(self, text: str, n_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show a second bar over `n_bytes`; yields the function that moves it."""
        task = self._bars.add_task(f"  {text}", total=n_bytes, amount="")
        done = 0

        def advance(step: int) -> None:
            nonlocal done
            done += step
            amount = f"{format_size(done)} of {format_size(n_bytes)}"
            self._bars.update(task, completed=done, amount=amount, refresh=True)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
        if self.shown and self._in_notebook:
            from IPython.display import clear_output

            clear_output()  # type: ignore[no-untyped-call]
