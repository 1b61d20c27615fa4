"""Commands about encodings: encodings, crossover, zero-pages."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .app import app, console, reported


@app.command()
def encodings(
    pattern: Annotated[
        list[str] | None, typer.Option(help="Which pages: idle, trace:NAME; several times")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="RAM of the guest")] = None,
    balloon: Annotated[str | None, typer.Option(help="Pages that are encoded")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="Formats; several times")] = None,
    guest: Annotated[
        list[str] | None, typer.Option(help="Inflate with each, too: thread, kvm; several times")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured repeats of every time")] = 5,
    out: Annotated[str | None, typer.Option(help="Folder for encodings.csv")] = None,
) -> None:
    """Encode the same pages in every format: bytes, kicks, records, ranges, ns per page.

    By default those of an idle guest of 8 GiB, some ten seconds.
    """
    from ..harness import encodings as run
    from ..sizes import format_measured, format_number

    with reported(out=out):
        guests: Any = guest or ()
        frame = run(
            pattern or "idle", memory, balloon, protocol or (), guests=guests, repeats=repeats,
            out=out,
        )  # fmt: skip
        for name in ("encode_ns", "decode_ns", *(f"{one}_ns" for one in ("lab", "kvm"))):
            if name in frame:
                frame[name] = (frame[name] / frame["n_named"]).map(format_measured)
        shown = frame.drop(columns=["memory_bytes", "density", "mean_run_pages"])
        console().print(shown.to_string(index=False, float_format=format_number))
        console().print("Times are ns per page that the format names.")


@app.command()
def crossover(
    out: Annotated[str, typer.Option(help="Folder for the run and its figures")],
    repeats: Annotated[int, typer.Option(help="Measured repeats of each case")] = 3,
) -> None:
    """Measure which format is best by density and run length, and draw the maps.

    By bytes (counted) and by the time of inflations by a thread and in a virtual machine. About
    eight minutes; the same command goes on where it stopped.
    """
    import matplotlib.pyplot as plt

    from ..figures import crossover as draw
    from ..figures import save
    from ..harness import counted
    from ..harness import crossover as run

    with reported(out=out):
        frame = run(repeats=repeats, out=out).frame
        maps = {"crossover-bytes": draw(counted())}
        for (source, touched), rows in frame.groupby(["source", "touched"]):
            state = "touched" if touched else "untouched"
            maps[f"crossover-{source}-{state}"] = draw(rows, "time_ns")
        for name, ax in maps.items():
            save(ax, f"{out}/{name}")
            plt.close(ax.get_figure(root=True))
        console().print(f"Results: {out}", soft_wrap=True)


@app.command()
def zero_pages(
    memory: Annotated[str, typer.Option(help="RAM of the guest; half of it comes back")] = "256MiB",
    repeats: Annotated[int, typer.Option(help="Measured repeats of each case")] = 5,
    out: Annotated[str | None, typer.Option(help="Folder for zero-pages.csv")] = None,
) -> None:
    """Give pages back that must be zero, with and without the device's answer which are already.

    Some ten seconds; ns per page.
    """
    from ..harness import zero_pages as run
    from ..harness.zero_pages import summary
    from ..sizes import format_measured

    with reported(out=out):
        frame = run(memory, repeats=repeats, out=out)
        console().print(summary(frame).to_string(index=False, float_format=format_measured))
