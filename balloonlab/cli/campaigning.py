"""The command that makes the shipped data: campaign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, console, reported


@app.command()
def campaign(
    out: Annotated[str, typer.Option(help="Folder of the campaign")] = "balloonlab-campaign",
    quick: Annotated[
        bool, typer.Option("--quick", help="Every case in small guests, one or two starts of each")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="This folder alone; may be given several times")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show the plan and how long it takes; measure nothing")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the starts")] = 0,
) -> None:
    """Measure all data that come with balloonlab, anew and on this machine, in one campaign.

    Two runs of the same case differ more than its repeats within one: what counts is the process
    start. Each row of the plan is a call of a function in ten fresh processes (the headline cases)
    or five; the starts of all rows, lab, kvm, linux and qemu, interleave in a random order. Every
    few minutes a reference case is measured between them: how far its times stray is the drift.

    A start is stored when it is whole. Ctrl-C loses the one in hand: the same command goes on. It
    measures again what failed, and what is noisy: where the hypervisor took over 2 % of the
    processors' time (steal), or others used more than a quarter of a processor. At the end the
    starts of a row are one folder, which balloonlab.load reads, with a column start:

        balloonlab campaign --list

        balloonlab campaign --quick --out try

        balloonlab campaign --only headline --only kvm

    Leave the machine alone meanwhile, and the code as it is: starts of unlike code or machines are
    never joined. It needs 20 GiB, /dev/kvm, QEMU and User-Mode Linux; without one of them its
    rows fail, the others are measured. Fails where a row is not there or has noisy starts.
    """
    from ..campaign import plan_table, rows_of, run
    from ..campaign.report import render, render_plan

    kept = f"Finished starts are in {Path(out) / 'starts'}; the same command goes on from there."
    with reported(lambda: kept if (Path(out) / "starts").exists() else "", out=out):
        if show:
            console().print(render_plan(plan_table(rows_of(only or ()), quick, Path(out))))
            raise typer.Exit
        done = run(out, quick, only or (), seed, typer.echo)
        console().print(render(done))
        console().print(f"Results: {out}", soft_wrap=True)
        if not done.finished:
            raise typer.Exit(1)
