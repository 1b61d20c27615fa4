"""Commands that measure: reproduce, sweep, timeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app, console


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
    host: Annotated[
        str, typer.Option(help="The device: lab (balloonlab's own) or qemu (unmodified)")
    ] = "lab",
) -> None:
    """Measure the 4126 ms -> 590 ms comparison of 2016 on this machine's memory.

    Inflates a balloon page by page and in bulk, on touched and untouched memory;
    prints stages beside the paper's; leaves timings.csv, meta.json and the figure
    in the folder. About two minutes at 8 GiB.

    With --host qemu the same in an unmodified QEMU, the bulk path being free page reporting.
    """
    from ..main_job import reproduce as run
    from ..reproduction.report import render

    begin = time.time()
    try:
        result = run(memory, balloon, repeats, out, host=host)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. {_kept(out, begin)}", err=True)
        raise typer.Exit(130) from None
    except RuntimeError as error:  # in the middle of it
        typer.echo(f"balloonlab: {error}. {_kept(out, begin)}", err=True)
        raise typer.Exit(2) from None
    except (ValueError, TypeError, MemoryError, OSError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    view = console()
    view.print(render(result))
    view.print(f"Results: {out}", soft_wrap=True)


def _kept(out: Path, since: float) -> str:
    """Say where the repeats are that were finished since a time; an earlier run may be there."""
    kept = out / "timings.csv"
    finished = kept.exists() and kept.stat().st_mtime >= since
    return f"Finished repeats are in {kept}." if finished else "No repeat was finished."


@app.command()
def sweep(
    memory: Annotated[
        list[str] | None, typer.Option(help="RAM of the guest (8GiB, or that of the trace)")
    ] = None,
    balloon: Annotated[
        list[str] | None,
        typer.Option(
            help="Size of the balloon, or a share of memory such as 0.5 (7/8, or all of the trace)"
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="How pages are told: pfn, bitmap-v4 (bitmap-v4); in QEMU pfn, reporting"),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(help="idle, random, huge, aged, every:K, geometric:MEAN, trace:NAME (idle)"),
    ] = None,
    order: Annotated[
        list[str] | None, typer.Option(help="as is, ascending, descending, shuffled (as is)")
    ] = None,
    operation: Annotated[list[str] | None, typer.Option(help="inflate, deflate (inflate)")] = None,
    touched: Annotated[
        list[bool] | None,
        typer.Option("--touched/--untouched", help="Whether the host backs the RAM (touched)"),
    ] = None,
    thp: Annotated[
        list[bool] | None,
        typer.Option("--thp/--no-thp", help="Whether huge pages may back it (no-thp)"),
    ] = None,
    discard: Annotated[
        list[str] | None, typer.Option(help="How it is applied: page, range (by protocol)")
    ] = None,
    wait: Annotated[
        list[str] | None, typer.Option(help="How the driver waits: block, busy (block)")
    ] = None,
    bitmaps: Annotated[
        list[int] | None, typer.Option(help="Bitmaps the guest has memory for, 0 to 32 (32)")
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(help="Equal steps to the balloon's size (1)")
    ] = None,
    block_order: Annotated[
        list[int] | None, typer.Option(help="Of the blocks under reporting, 0 to 10 (9)")
    ] = None,
    host: Annotated[str, typer.Option(help="The device: lab, qemu")] = "lab",
    repeats: Annotated[int, typer.Option(help="Measured repeats of each case")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for results")] = Path("balloonlab-sweep"),
    seed: Annotated[int, typer.Option(help="Of the order in which cases are measured")] = 0,
) -> None:
    """Measure every combination of the options' values; go on where the same command stopped.

    All options but the last four may be given several times:

        balloonlab sweep --memory 1GiB --memory 4GiB --pattern idle --pattern random

        balloonlab sweep --memory 2GiB --touched --untouched --discard page --discard range

    Each repeat is on disk before the next one starts: after Ctrl-C, a crash or a reboot
    the same command goes on. What cannot be measured is skipped, and listed with the reason.
    """
    from ..measurement.api import totals
    from ..measurement.sweeps import sweep as run

    axes = {
        "memory": memory,
        "balloon": [_size_or_share(text) for text in balloon or []],
        "protocol": protocol,
        "pattern": pattern,
        "order": order,
        "operation": operation,
        "touched": touched,
        "thp": thp,
        "discard": discard,
        "wait": wait,
        "bitmaps": bitmaps,
        "steps": steps,
        "block_order": block_order,
    }
    given: dict[str, Any] = {name: values for name, values in axes.items() if values}
    try:
        result = run(**given, host=host, repeats=repeats, out=out, seed=seed)
    except KeyboardInterrupt:
        typer.echo(
            f"Interrupted. Finished repeats are in {out}; the same command goes on from there.",
            err=True,
        )
        raise typer.Exit(130) from None
    except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    if len(result.frame):
        typer.echo(totals(result.frame).to_string(index=False, float_format="%.4g"))
    for (outcome, reason), rows in result.skipped.groupby(["outcome", "reason"]):
        typer.echo(f"{outcome}, {len(rows)} cases: {reason}")
    n_cases = len(result.frame["run_id"].unique())
    typer.echo(f"{n_cases} cases measured, {len(result.skipped)} left out ({host}). Results: {out}")


def _size_or_share(text: str) -> str | float:
    """Tell a share of the memory, ``0.5``, from a size, ``512MiB``."""
    try:
        share = float(text)
    except ValueError:
        return text
    return share if 0 < share < 1 else text


@app.command()
def timeline(
    memory: Annotated[str, typer.Option(help="RAM of the guest")] = "64MiB",
    protocol: Annotated[str, typer.Option(help="How pages are told")] = "pfn",
    touched: Annotated[
        bool, typer.Option("--touched/--untouched", help="Whether the host backs the RAM")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for results")] = Path("balloonlab-timeline"),
) -> None:
    """Record every interval of one inflation, guest and host: timeline.csv and meta.json."""
    from ..measurement.provenance import describe_machine
    from ..measurement.store import write_table
    from ..measurement.timelines import TIMELINE
    from ..measurement.timelines import timeline as run

    try:
        frame = run(memory=memory, protocol=protocol, touched=touched)
        write_table(frame, describe_machine() | {"case": frame.attrs}, out, TIMELINE)
    except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{len(frame)} intervals (lab). Results: {out}")
