"""Commands that test balloonlab itself: bench, fuzz, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, console


@app.command()
def bench() -> None:
    """Time the kernels against memory bandwidth, numpy, bitarray and pyroaring."""
    from ..selftest.benchmark import bench as run
    from ..selftest.benchmark import missing_peers
    from ..selftest.report import render_bench

    console().print(render_bench(run(), missing_peers()))


@app.command()
def fuzz(
    cases: Annotated[
        int, typer.Option(help="Hostile messages in all, rounded up to a multiple of 4")
    ] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed plays the same cases")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for fuzz.csv and meta.json")] = None,
) -> None:
    """Play hostile messages and queues against the host device, canaries around its RAM.

    About a minute and a half for ten million cases. Fails when a canary changed or
    anything outside the guest's RAM was discarded.
    """
    from ..measurement.provenance import describe_machine
    from ..measurement.store import write_table
    from ..selftest.hostile import MUST_BE_ZERO
    from ..selftest.hostile import fuzz as run
    from ..selftest.report import render_fuzz

    try:
        rows = run(cases, seed)
        if out is not None:
            arguments = {"arguments": {"cases": cases, "seed": seed}}
            write_table(rows, describe_machine() | arguments, out, "fuzz.csv")
    except (ValueError, NotImplementedError, OSError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    console().print(render_fuzz(rows))
    if rows.loc[rows["finding"].isin(MUST_BE_ZERO), "count"].any():
        raise typer.Exit(1)


@app.command()
def verify(
    memory: Annotated[str, typer.Option(help="RAM of the guest")] = "8GiB",
    seed: Annotated[int, typer.Option(help="Which half of its pages is ballooned")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for contents.csv and meta.json")] = None,
) -> None:
    """Look at every byte of a guest's RAM after inflating and deflating half of it.

    Through every protocol and way to discard; about a minute at 8 GiB. Fails when a
    byte outside the balloon changed or one inside is not zero.
    """
    from ..measurement.provenance import describe_machine
    from ..measurement.store import write_table
    from ..selftest.contents import MUST_BE_ZERO
    from ..selftest.contents import verify as run
    from ..selftest.report import render_contents

    try:
        rows = run(memory, seed)
        if out is not None:
            arguments = {"arguments": {"memory": memory, "seed": seed}}
            write_table(rows, describe_machine() | arguments, out, "contents.csv")
    except (ValueError, MemoryError, NotImplementedError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    console().print(render_contents(rows))
    if rows[list(MUST_BE_ZERO)].any(axis=None):
        raise typer.Exit(1)
