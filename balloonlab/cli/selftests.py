"""Commands that test balloonlab itself: kernels, fuzz, verify."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import app, console, reported

if TYPE_CHECKING:
    import pandas as pd


@app.command()
def kernels(
    large: Annotated[
        bool, typer.Option("--large", help="Also guests of 33GiB to 1TiB: takes up to 9 GB")
    ] = False,
    out: Annotated[str | None, typer.Option(help="Folder for kernels.csv and meta.json")] = None,
) -> None:
    """Time the kernels against memory bandwidth, numpy, bitarray and pyroaring.

    Those of every format, too. Under half a minute, and 350 MB of memory.
    """
    from ..selftest import time_kernels as run
    from ..selftest.benchmark import missing_peers
    from ..selftest.tables import render_kernels

    render = partial(render_kernels, missing=missing_peers(), large=large)
    _test(run, render, out, "kernels.csv", large=large)


@app.command()
def fuzz(
    cases: Annotated[
        int, typer.Option(help="Hostile messages in all, rounded up to whole shares")
    ] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed plays the same cases")] = 1,
    guest: Annotated[str, typer.Option(help="Whose memory it is: thread, kvm")] = "thread",
    out: Annotated[str | None, typer.Option(help="Folder for fuzz.csv and meta.json")] = None,
) -> None:
    """Play hostile messages and queues against the host device, canaries around its RAM.

    About a minute and a half for ten million cases. Fails when a canary changed or
    anything outside the guest's RAM was discarded.
    """
    from ..selftest import fuzz as run
    from ..selftest.hostile import MUST_BE_ZERO
    from ..selftest.tables import render_fuzz

    render = partial(render_fuzz, source="kvm" if guest == "kvm" else "lab")
    rows = _test(run, render, out, "fuzz.csv", cases=cases, seed=seed, guest=guest)
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

    rows = _test(run, render_contents, out, "contents.csv", memory=memory, seed=seed)
    if rows[list(MUST_BE_ZERO)].any(axis=None):
        raise typer.Exit(1)


def _test(
    run: Callable[..., Any], render: Callable[..., Any], out: str | None, name: str, **given: Any
) -> pd.DataFrame:
    """Run a test, keep its table where a folder was given, which is checked first, and print it."""
    from ..measurement.provenance import describe_machine
    from ..measurement.store import check_out, write_table

    with reported(out=out):
        folder = None if out is None else check_out(out, name)
        rows = run(**given)
        if folder is not None:
            write_table(rows, describe_machine() | {"arguments": given}, folder, name)
        console().print(render(rows))
    return rows
