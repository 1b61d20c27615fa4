"""Commands about real guests: capture, traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, console, reported


@app.command()
def capture(
    state: Annotated[
        list[str] | None,
        typer.Option(help="State of the guest; `all` for every one; `list` describes them (idle)"),
    ] = None,
    memory: Annotated[
        list[str] | None, typer.Option(help="RAM of the guest (2GiB, 4GiB and 8GiB)")
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="Share of it to inflate to (0.85; of some states 0.25 and 0.5, too)"),
    ] = None,
    out: Annotated[str, typer.Option(help="Folder for the traces")] = "balloonlab-traces",
    seed: Annotated[
        list[int] | None, typer.Option(help="Of what the guest does at random (1)")
    ] = None,
    guest: Annotated[
        str, typer.Option(help="Who runs it: qemu, or linux, which is a process (User-Mode Linux)")
    ] = "qemu",
    linux: Annotated[Path | None, typer.Option(help="User-Mode Linux (linux.uml)")] = None,
    kernel: Annotated[Path | None, typer.Option(help="Kernel image (found or downloaded)")] = None,
    modules: Annotated[Path | None, typer.Option(help="Its lib/modules/RELEASE")] = None,
    accelerator: Annotated[str | None, typer.Option(help="kvm or tcg (KVM where it works)")] = None,
) -> None:
    """Record which pages a real Linux guest gives to its balloon, and in which order.

    Boots a kernel in QEMU, or with --guest linux as an ordinary process, in seconds; brings the
    guest into a state, inflates and deflates the balloon, and records every page that the driver
    sends. Traces that the folder has are skipped: the
    same command goes on after Ctrl-C. Those that come with balloonlab:

        balloonlab capture --state all --out data/traces

        balloonlab capture --guest linux --state all --seed 1 --seed 2 --out data/traces

    A trace is a pattern of `sweep`: --pattern trace:FOLDER/NAME, as `traces --folder` lists them.
    """
    from ..capture import STATES, plan, record_all
    from ..measurement.store import check_out

    if state == ["list"]:
        for name, description in STATES.items():
            typer.echo(f"{name}: {description.text}")
        return
    kept = f"Finished traces are in {out}; the same command goes on from there."
    with reported(lambda: kept, out):
        planned = plan(state or ["idle"], memory, share, seed or [1], guest)
        folder = check_out(out)
        for one, captured in record_all(
            planned, folder, linux=linux, kernel=kernel, modules=modules, accelerator=accelerator
        ):
            pages = captured.pages if captured else {}
            sent = ", ".join(f"{name}: {len(pfns)} pages" for name, pfns in pages.items())
            typer.echo(sent or f"{one.name} is there")


@app.command()
def traces(
    folder: Annotated[
        Path | None, typer.Option(help="Of your own captures (those that come with balloonlab)")
    ] = None,
) -> None:
    """List recorded traces: the guest's state and memory, the size of its balloon.

    As a pattern, each is trace:NAME, or trace:FOLDER/NAME with a folder of your own.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..pages.traces import index
    from ..sizes import format_size

    with reported():
        view = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("name", "state"):
            view.add_column(heading, overflow="fold")
        for heading in ("memory", "balloon", "pages"):
            view.add_column(heading, justify="right", no_wrap=True)
        frame = index(folder)
        for row in frame.itertuples():
            sizes = (format_size(n_bytes) for n_bytes in (row.memory_bytes, row.balloon_bytes))
            view.add_row(row.name, row.state, *sizes, f"{row.n_pages:,}")
        if len(frame):
            console().print(view)
        typer.echo(f"{len(frame)} traces (trace)")
