"""The ``balloonlab`` command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

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
    from .headline import reproduce as run
    from .lab.report import render

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
    console = _console()
    console.print(render(result))
    console.print(f"Results: {out}", soft_wrap=True)


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
    from .lab.measure import totals
    from .lab.sweep import sweep as run

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
    out: Annotated[Path, typer.Option(help="Folder for the traces")] = Path("balloonlab-traces"),
    seed: Annotated[int, typer.Option(help="Of what the guest does at random")] = 1,
    kernel: Annotated[Path | None, typer.Option(help="Kernel image (found or downloaded)")] = None,
    modules: Annotated[Path | None, typer.Option(help="Its lib/modules/RELEASE")] = None,
    accelerator: Annotated[str | None, typer.Option(help="kvm or tcg (KVM where it works)")] = None,
) -> None:
    """Record which pages a real Linux guest gives to its balloon, and in which order.

    Boots a kernel in QEMU, brings the guest into a state, inflates and deflates the balloon,
    and records what the driver tells. Traces that the folder has are passed over, so that the
    same command goes on after Ctrl-C. Those that come with balloonlab:

        balloonlab capture --state all --out data/traces
    """
    from .capture import STATES, plan, record_all

    if state == ["list"]:
        for name, description in STATES.items():
            typer.echo(f"{name}: {description.text}")
        return
    try:
        wanted = plan(state or ["idle"], memory, share, seed)
        how: dict[str, Any] = {"kernel": kernel, "modules": modules, "accelerator": accelerator}
        for one, captured in record_all(wanted, out, **how):
            pages = captured.pages if captured else {}
            told = ", ".join(f"{name}: {len(pfns)} pages" for name, pfns in pages.items())
            typer.echo(told or f"{one.name} is there")
    except KeyboardInterrupt:
        typer.echo(
            f"Interrupted. Finished traces are in {out}; the same command goes on from there.",
            err=True,
        )
        raise typer.Exit(130) from None
    except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def bench() -> None:
    """Time the kernels against memory bandwidth, numpy, bitarray and pyroaring."""
    from .lab.bench import bench as run
    from .lab.bench import missing_peers
    from .lab.report import render_bench

    _console().print(render_bench(run(), missing_peers()))


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
    from .lab.fuzz import MUST_BE_ZERO
    from .lab.fuzz import fuzz as run
    from .lab.provenance import describe_machine
    from .lab.report import render_fuzz
    from .lab.store import write_table

    try:
        rows = run(cases, seed)
        if out is not None:
            arguments = {"arguments": {"cases": cases, "seed": seed}}
            write_table(rows, describe_machine() | arguments, out, "fuzz.csv")
    except (ValueError, NotImplementedError, OSError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    _console().print(render_fuzz(rows))
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
    from .lab.contents import MUST_BE_ZERO
    from .lab.contents import verify as run
    from .lab.provenance import describe_machine
    from .lab.report import render_contents
    from .lab.store import write_table

    try:
        rows = run(memory, seed)
        if out is not None:
            arguments = {"arguments": {"memory": memory, "seed": seed}}
            write_table(rows, describe_machine() | arguments, out, "contents.csv")
    except (ValueError, MemoryError, NotImplementedError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    _console().print(render_contents(rows))
    if rows[list(MUST_BE_ZERO)].any(axis=None):
        raise typer.Exit(1)


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
    from .lab.provenance import describe_machine
    from .lab.store import write_table
    from .lab.timeline import TIMELINE
    from .lab.timeline import timeline as run

    try:
        frame = run(memory=memory, protocol=protocol, touched=touched)
        write_table(frame, describe_machine() | {"case": frame.attrs}, out, TIMELINE)
    except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
        typer.echo(f"balloonlab: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{len(frame)} intervals (lab). Results: {out}")


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
    from .figures import draw_all
    from .results import write

    drawn = 0
    for name, problem in draw_all(out, run):
        drawn += problem is None
        typer.echo(f"{name}: {problem or 'drawn'}", err=problem is not None)
    typer.echo(f"{drawn} figures in {out}")
    if not drawn:
        raise typer.Exit(2)
    if run is None:
        write(out)


def main() -> None:
    """Run the command line."""
    app()
