"""Commands that draw: figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, reported


@app.command()
def figures(
    out: Annotated[Path, typer.Option(help="Folder for the figures")],
    run: Annotated[
        Path | None,
        typer.Option("--from", help="A stored run or timeline of your own to draw from"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Draw this figure alone; may be given several times")
    ] = None,
) -> None:
    """Draw every figure as SVG, PDF and PNG, from the data that come with balloonlab.

    Beside them numbers.json and numbers.tex: every number of the README and the notebooks,
    for LaTeX as macros. With --from, the figures that a run of your own (sweep, reproduce,
    timeline) has the cases for, and no others.
    """
    from ..figures import draw_all
    from ..results import write

    drawn = 0

    def count() -> str:
        return f"{drawn} figure{'' if drawn == 1 else 's'} in {out}"

    with reported(lambda: f"Drawn: {count()}." if drawn else ""):
        for name, problem in draw_all(out, run, only or ()):
            drawn += problem is None
            typer.echo(f"{name}: {f'skipped, {problem}' if problem else 'drawn'}")
        if run is None and not only:
            write(out)
    typer.echo(count())
    if not drawn:
        raise typer.Exit(2)
