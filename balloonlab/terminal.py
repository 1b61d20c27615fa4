"""Progress bars on standard error, and reports as text.

Not ``tqdm.auto``: in a notebook it leaves an output and a widget's state in the file, and its
monitoring thread would run beside timed code.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from .sizes import format_size

WIDTH = 100
"""Columns of a report where the output is no terminal."""


def to_text(report: RenderableType) -> str:
    """Return a report as plain text, `WIDTH` columns wide, as in the README."""
    with io.StringIO() as file:
        Console(file=file, width=WIDTH, force_jupyter=False).print(report)
        lines = file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


class Progress:
    """A bar over the steps of a run, and a second one over gigabytes, shown if wanted.

    Bars appear only in a terminal or in a notebook, and leave nothing behind.
    """

    def __init__(self, n_steps: int, show: bool = True) -> None:
        console = Console(stderr=True)
        self._in_notebook = show and console.is_jupyter
        self._handle: Any = None  # of the cell's output that shows the bars
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
            disable=not show or not console.is_terminal or self._in_notebook,
        )
        self._task, self.advance = self._add("starting", n_steps, "/", str)

    def describe(self, text: str) -> None:
        """Show what is being done."""
        self._update(self._task, description=text)

    @contextmanager
    def bytes(self, text: str, n_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show a second bar over `n_bytes`; yields the function that moves it."""
        task, advance = self._add(f"  {text}", n_bytes, " of ", format_size)
        try:
            yield advance
        finally:
            self._bars.remove_task(task)

    def _add(
        self, text: str, total: int, of: str, write: Callable[[int], str]
    ) -> tuple[TaskID, Callable[..., None]]:
        """Add a bar; return it and the function that moves it."""
        task = self._bars.add_task(text, total=total, amount=f"{write(0)}{of}{write(total)}")
        done = 0

        def advance(step: int = 1) -> None:
            nonlocal done
            done += step
            self._update(task, completed=done, amount=f"{write(done)}{of}{write(total)}")

        return task, advance

    def _update(self, task: TaskID, **changes: Any) -> None:
        self._bars.update(task, refresh=True, **changes)
        if self._handle is not None:
            bars = to_text(self._bars.get_renderable())
            self._handle.update({"text/plain": bars.rstrip()}, raw=True)

    def __enter__(self) -> Self:
        if self._in_notebook:
            from IPython.display import display

            # Text under an id of its own: rich's widget can only be removed together with
            # everything else that the cell has put out.
            self._handle = display(  # type: ignore[no-untyped-call, unused-ignore]
                {"text/plain": ""}, raw=True, display_id=True
            )
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)
