"""Commands that measure: reproduce, bench, sweep, timeline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..measurement.options import TABLE, Option
from .app import app, console, reported

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.table import Table

    from ..measurement.run import Run


def _help(row: Option) -> str:
    """Return the first sentence of an option's help, its words and its default."""
    text = row.help.partition(". ")[0].rstrip(".").replace("`", "")
    words = f": {', '.join(row.choices)}" if row.choices else ""
    default = row.default
    if row.flags:
        default = row.flags.split("/")[not default].removeprefix("--")
    return f"{text}{words}" + ("" if default is None else f" ({default})")


def _parameter(row: Option, listed: bool) -> Parameter:
    """Return an option of the table as typer takes it."""
    flags = row.flags or f"--{row.name.replace('_', '-')}"
    complete = (lambda: list(row.choices)) if row.choices else None
    kind = list[row.kind] if listed else row.kind  # type: ignore[name-defined]
    option = typer.Option(flags, help=_help(row), autocompletion=complete)
    hint = Annotated[kind | None, option]  # type: ignore[valid-type]
    return Parameter(row.name, Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _takes(*names: str, listed: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these names, before its own."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = Signature.from_callable(command, eval_str=True).parameters.values()
        rows = (TABLE[name] for name in names)
        parameters = [_parameter(row, listed and row.listed) for row in rows]
        parameters += [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, a balloon such as 0.5 as a number."""
    given = {name: value for name, value in options.items() if value not in (None, [])}
    if "balloon" in given:
        sizes = given["balloon"]
        given["balloon"] = _share(sizes) if isinstance(sizes, str) else [*map(_share, sizes)]
    return given


def _share(balloon: str) -> str | float:
    with suppress(ValueError):
        return balloon if (share := float(balloon)).is_integer() else share
    return balloon


def _kept(out: str) -> Callable[[], str]:
    """Return what says whether repeats were finished since now, and where they are."""
    checks = Path(out) / "checks.csv"

    def state() -> tuple[int, int] | None:
        begun = checks.is_file() and checks.read_bytes().count(b"\n") > 1
        return (checks.stat().st_ino, checks.stat().st_size) if begun else None

    before = state()
    finished = f"Finished repeats are in {Path(out) / 'timings.csv'}"
    finished += "; the same command goes on from there."
    return lambda: "No repeat was finished." if state() in (None, before) else finished


@app.command()
@_takes("memory", "balloon", "guest", "host", "linux", "modules", listed=False)
def reproduce(
    repeats: Annotated[int, typer.Option(help="Measured repeats of each case")] = 3,
    out: Annotated[str, typer.Option(help="Folder for results")] = "balloonlab-reproduce",
    **options: Any,
) -> None:
    """Measure the 4126 ms -> 590 ms comparison of 2016 on this machine's memory.

    Inflates a balloon with PFNs and with bitmaps, on touched and untouched memory;
    prints stages beside the paper's; leaves timings.csv, checks.csv, meta.json and the figure
    in the folder. About two minutes at 8 GiB. An unfinished run in the folder goes on.

    With --guest kvm the same, driver and all, in a virtual machine of this process.
    With --host qemu in an unmodified QEMU, with free page reporting for the bitmaps.
    With --guest linux by Linux's own driver in User-Mode Linux, with free page hinting: each
    repeat boots a guest, which takes under three minutes in all.
    """
    from ..main_job import reproduce as run
    from ..reproduction.report import render

    with reported(_kept(out)):
        result = run(**_given(options), repeats=repeats, out=out)
        console().print(render(result))
        console().print(f"Results: {out}", soft_wrap=True)


@app.command()
@_takes(*TABLE, listed=True)
def sweep(
    pattern_file: Annotated[
        list[Path] | None,
        typer.Option(help="File of page numbers as a pattern: text, one per line, or .npy"),
    ] = None,
    traces: Annotated[
        str | None, typer.Option(help="Folder of the traces that --pattern trace:NAME names")
    ] = None,
    out: Annotated[str, typer.Option(help="Folder for results")] = "balloonlab-sweep",
    seed: Annotated[int, typer.Option(help="Of the order in which cases are measured")] = 0,
    **options: Any,
) -> None:
    """Measure every combination of the options' values; go on where the same command stopped.

    All options but the repeats and the last ones may be given several times:

        balloonlab sweep --memory 1GiB --memory 4GiB --pattern idle --pattern random

        balloonlab sweep --memory 2GiB --touched --untouched --discard page --discard range

    Each repeat is on disk before the next one starts: after Ctrl-C, a crash or a reboot
    the same command goes on. What cannot be measured is skipped, and listed with the reason;
    where nothing could be measured the command fails.
    """
    from ..measurement import sweep as run

    with reported(_kept(out)):
        given = _given(options)
        patterns: list[Any] = [_in_folder(name, traces) for name in given.get("pattern", [])]
        patterns += [_read_pages(path) for path in pattern_file or []]
        if patterns:
            given["pattern"] = patterns
        result = run(**given, out=out, seed=seed)
        _print_sweep(result)
        typer.echo(f"Results: {out}")
        if result.frame.empty:
            raise typer.Exit(1)


def _in_folder(pattern: str, folder: str | None) -> str:
    if folder is None or not pattern.startswith("trace:"):
        return pattern
    return f"trace:{Path(folder) / pattern.removeprefix('trace:')}"


def _read_pages(path: Path) -> npt.NDArray[np.uint64]:
    """Read page numbers from a file; errors name the option, the file and what is wrong in it."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                pages = np.lib.format.read_array(file)
        else:
            words = path.read_text().split()
            wrong = [word for word in words if not word.isdecimal() or int(word) >= 1 << 52]
            if wrong:
                raise ValueError(f"{wrong[0]!r} is no page number")
            pages = np.array(words, np.uint64)
    except (ValueError, EOFError, OSError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"--pattern-file must name a text file of page numbers, one per line, or an array in "
            f".npy, got {str(path)!r}: {what}"
        ) from None
    if pages.size == 0:
        raise ValueError(f"--pattern-file must hold at least one page number, {path} has none")
    return pages


def _print_sweep(result: Run) -> None:
    from ..measurement.run import constants

    n_cases = result.frame["run_id"].nunique()
    if n_cases:
        typer.echo(", ".join(constants(result.frame)))
        console().print(_table(result))
    for (outcome, reason), rows in result.skipped.groupby(["outcome", "reason"]):
        typer.echo(f"{outcome}, {len(rows)} cases: {reason}")
    sources = "".join(f" ({source})" for source in result.frame["source"].unique())
    typer.echo(f"{n_cases} cases measured, {len(result.skipped)} left out{sources}.")


def _spread(value: float, low: float, high: float) -> str:
    return "" if value != value else f"{value:.3g} ({low:.3g}-{high:.3g})"


def _table(result: Run) -> Table:
    """Return totals as a table for the terminal, with ratios over pfn where they say anything."""
    from rich.table import Column, Table

    from ..measurement import ratios, totals
    from ..measurement.run import readable

    table = totals(result)
    text = readable(table)
    names = ["median_ms", "min_ms", "max_ms"]
    text["time, ms"] = [_spread(*times) for times in table[names].itertuples(index=False)]
    text = text.drop(columns=[*names, "repeats"])
    pairs = result.frame[["protocol", "discard"]].drop_duplicates()
    if "discard" in text and pairs["protocol"].is_unique:
        text = text.drop(columns="discard")
    with suppress(ValueError):  # no pfn, or several that the frame cannot distinguish
        over = ratios(result)
        merged = table.merge(over, on=[name for name in table if name in over], how="left")
        columns = merged[["ratio", "low", "high"]]
        text["ratio to pfn"] = [_spread(*row) for row in columns.itertuples(index=False)]
    headings = (Column(name, overflow="fold") for name in text)
    view = Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in text.itertuples(index=False):
        view.add_row(*row)
    return view


@app.command()
def bench(
    memory: Annotated[str, typer.Option(help="RAM of the guests")] = "2GiB",
    guest: Annotated[
        list[str] | None, typer.Option(help="Who runs the driver: thread, kvm; several times")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="This kind of guest alone; several times")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured repeats of each case")] = 3,
    out: Annotated[str, typer.Option(help="Folder for results")] = "balloonlab-bench",
) -> None:
    """Measure the ladder from the legacy driver to the floor, a rung an improvement.

    First what a host can do for a guest that does not change, then what both can: by a thread and,
    where there is KVM, in a virtual machine. Kinds of guests: "idle, touched", "idle, untouched",
    "idle, huge pages", "random, touched". About four minutes; an unfinished run goes on. The
    folder gets timings.csv, checks.csv, meta.json and the figures.
    """
    from ..figures.ladder_bars import save_ladders
    from ..ladder import bench as run
    from ..ladder.report import render

    with reported(_kept(out)):
        result = run(memory, guest, scenario, repeats, out)  # type: ignore[arg-type]
        save_ladders(result, Path(out))
        console().print(render(result))
        console().print(f"Results: {out}", soft_wrap=True)


@app.command()
@_takes(*(name for name in TABLE if name not in ("host", "repeats")), listed=False)
def timeline(
    out: Annotated[str, typer.Option(help="Folder for results")] = "balloonlab-timeline",
    **options: Any,
) -> None:
    """Record every interval of one inflation, guest and host: timeline.csv and meta.json.

    By default of 64 MiB with pfn.
    """
    from ..measurement import timeline as run

    with reported(out=out):
        frame = run(**{"memory": "64MiB", "protocol": "pfn", **_given(options)}, out=out)
        typer.echo(f"{len(frame)} intervals ({frame.attrs['source']}). Results: {out}")
