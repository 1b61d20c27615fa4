"""The ``balloonlab`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="How fast can a guest give memory back? Real memory, stage by stage.",
    pretty_exceptions_enable=False,
)


def _console() -> Console:
    from .lab.report import WIDTH

    return Console(width=max(Console().width, WIDTH))  # cut cells would be worse than long lines


@app.command()
def reproduce(
    memory: Annotated[
        str | None, typer.Option(help="RAM of the guest (default: 8GiB, less where it is short)")
    ] = None,
    balloon: Annotated[
        str | None, typer.Option(help="Size of the balloon (default: 7/8 of the memory)")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured repeats of each case")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for results")] = Path("balloonlab-reproduce"),
) -> None:
    """Measure the 4126 ms -> 590 ms comparison of 2016 on this machine's memory.

    Inflates a balloon page by page and in bulk, on touched and untouched memory;
    prints stages beside the paper's; leaves timings.csv, meta.json and the figure
    in the folder. About two minutes at 8 GiB.
    """
    from .headline import reproduce as run
    from .lab.report import render

    try:
        result = run(memory, balloon, repeats, out)
    except KeyboardInterrupt:
        kept = out / "timings.csv"
        told = f"Finished repeats are in {kept}." if kept.exists() else "No repeat was finished."
        typer.echo(f"Interrupted. {told}", err=True)
        raise typer.Exit(130) from None
    except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    console = _console()
    console.print(render(result))
    console.print(f"Results: {out}", soft_wrap=True)


@app.command()
def bench() -> None:
    """Time the kernels against memory bandwidth, numpy, bitarray and pyroaring."""
    from .lab.bench import bench as run
    from .lab.bench import missing_peers
    from .lab.report import render_bench

    _console().print(render_bench(run(), missing_peers()))


def main() -> None:
    """Run the command line."""
    app()
