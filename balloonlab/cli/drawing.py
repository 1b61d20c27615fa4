"""Commands that draw: figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command()
def figures(
    out: Annotated[Path, typer.Option(help="Folder for the figures")],
    run: Annotated[
        Path | None, typer.Option("--from", help="A stored run of your own to draw from")
    ] = None,
) -> None:
    """Draw every figure as SVG, PDF and PNG, from the data that come with balloonlab.

    Beside them numbers.json and numbers.tex: every number of the README and the notebooks,
    for LaTeX as macros. With --from, only the figures that a run of your own (sweep,
    reproduce) has the cases for.
    """
    from ..figures import draw_all
    from ..results import write

    drawn = 0
    for name, problem in draw_all(out, run):
        drawn += problem is None
        typer.echo(f"{name}: {problem or 'drawn'}", err=problem is not None)
    typer.echo(f"{drawn} figures in {out}")
    if not drawn:
        raise typer.Exit(2)
    if run is None:
        write(out)
