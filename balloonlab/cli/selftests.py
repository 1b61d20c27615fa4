"""Commands that test balloonlab itself: bench, fuzz, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app, console, reported

if TYPE_CHECKING:
    import pandas as pd


@app.command()
def bench(
    large: Annotated[
        bool, typer.Option("--large", help="Also guests of 33GiB to 1TiB: takes up to 9 GB")
    ] = False,
    out: Annotated[str | None, typer.Option(help="Folder for bench.csv and meta.json")] = None,
) -> None:
    """Time the kernels against memory bandwidth, numpy, bitarray and pyroaring.

    About ten seconds, and 350 MB of memory.
    """
    from ..selftest import bench as run
    from ..selftest.benchmark import missing_peers
    from ..selftest.tables import render_bench

    with reported(out=out):
        folder = _check(out, "bench.csv")
        rows = run(large)
        _keep(rows, {"large": large}, folder, "bench.csv")
        console().print(render_bench(rows, missing_peers(), large))


@app.command()
def fuzz(
    cases: Annotated[
        int, typer.Option(help="Hostile messages in all, rounded up to whole shares")
    ] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed plays the same cases")] = 1,
    out: Annotated[str | None, typer.Option(help="Folder for fuzz.csv and meta.json")] = None,
) -> None:
    """Play hostile messages and queues against the host device, canaries around its RAM.

    About a minute and a half for ten million cases. Fails when a canary changed or
    anything outside the guest's RAM was discarded.
    """
    from ..selftest import fuzz as run
    from ..selftest.hostile import MUST_BE_ZERO
    from ..selftest.tables import render_fuzz

    with reported(out=out):
        folder = _check(out, "fuzz.csv")
        rows = run(cases, seed)
        _keep(rows, {"cases": cases, "seed": seed}, folder, "fuzz.csv")
        console().print(render_fuzz(rows))
        if rows.loc[rows["finding"].isin(MUST_BE_ZERO), "count"].any():
            raise typer.Exit(1)


@app.command()
def verify(
    memory: Annotated[str, typer.Option(help="RAM of the guest")] = "8GiB",
    seed: Annotated[int, typer.Option(help="Which half of its pages is ballooned")] = 1,
    out: Annotated[str | None, typer.Option(help="Folder for contents.csv and meta.json")] = None,
) -> None:
    """Compare every byte of a guest's RAM after inflating and deflating half of it.

    Through every protocol and discard; about a minute at 8 GiB. Fails when a
    byte outside the balloon changed or one inside is not zero.
    """
    from ..selftest import verify as run
    from ..selftest.contents import MUST_BE_ZERO
    from ..selftest.tables import render_contents

    with reported(out=out):
        folder = _check(out, "contents.csv")
        rows = run(memory, seed)
        _keep(rows, {"memory": memory, "seed": seed}, folder, "contents.csv")
        console().print(render_contents(rows))
        if rows[list(MUST_BE_ZERO)].any(axis=None):
            raise typer.Exit(1)


def _check(out: str | None, name: str) -> Path | None:
    """Return the folder for a table, checked before the work."""
    from ..measurement.store import check_out

    return None if out is None else check_out(out, name)


def _keep(rows: pd.DataFrame, arguments: dict[str, object], folder: Path | None, name: str) -> None:
    """Write a finished table, and what it was made with and on, where a folder was given."""
    from ..measurement.provenance import describe_machine
    from ..measurement.store import write_table

    if folder is not None:
        write_table(rows, describe_machine() | {"arguments": arguments}, folder, name)
