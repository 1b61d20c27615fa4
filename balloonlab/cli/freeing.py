"""Commands about memory that was returned: frees, collapse, impact, give-back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app, console, reported


@app.command()
def frees(
    memory: Annotated[str, typer.Option(help="RAM of the guest")] = "16MiB",
    repeats: Annotated[int, typer.Option(help="Measured repeats of each combination")] = 3,
    out: Annotated[str | None, typer.Option(help="Folder for frees.csv and figures")] = None,
) -> None:
    """Try every call that takes memory away on every backing, on this kernel.

    Whether memory is freed, what its pages read then, ns per page, what the call leaves behind, and
    what taking back costs. Some twenty seconds, no root; huge pages of the kernel's pool need it.
    """
    from ..freeing import frees
    from ..freeing.report import render

    with reported(out=out):
        frame = frees(memory, repeats, out)
        console().print(render(frame))
        if out is not None:
            from ..figures.freed_bars import save_frees

            save_frees(frame, Path(out))
            console().print(f"Results: {out}", soft_wrap=True)


@app.command()
def collapse(
    memory: Annotated[str, typer.Option(help="RAM of the guest; half of it is ballooned")] = "1GiB",
    guest: Annotated[
        list[str] | None, typer.Option(help="Who touches: thread, kvm; several times")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured repeats of each guest")] = 5,
    out: Annotated[str | None, typer.Option(help="Folder for collapse.csv")] = None,
) -> None:
    """Break huge pages by discards of 4 KiB, and time what it takes to get them back.

    The guest touches the pages again, then the kernel collapses them. Some seconds.
    """
    from ..freeing import collapse
    from ..freeing.collapsing import summary
    from ..freeing.giving_back import GUESTS
    from ..sizes import format_measured

    with reported(out=out):
        frame = collapse(memory, guest or GUESTS, repeats, out)  # type: ignore[arg-type]
        console().print(summary(frame).to_string(index=False, float_format=format_measured))


@app.command()
def impact(
    way: Annotated[
        list[str] | None, typer.Option(help="How it inflates: page, range ...; several times")
    ] = None,
    memory: Annotated[str, typer.Option(help="RAM of the guest; 7/8 of it are ballooned")] = "1GiB",
    guest: Annotated[
        list[str] | None, typer.Option(help="Who runs both threads: thread, kvm; several times")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured repeats of each way")] = 5,
    out: Annotated[str | None, typer.Option(help="Folder for impact.csv")] = None,
) -> None:
    """Inflate while another thread of the guest works, and time its steps.

    By default by a thread and in a virtual machine, ten ways: about three minutes.
    """
    from ..freeing import WAYS
    from ..freeing import impact as run
    from ..freeing.beside import summary
    from ..freeing.giving_back import GUESTS
    from ..sizes import format_measured

    with reported(out=out):
        guests: Any = guest or GUESTS
        frame = run(way or WAYS, memory, guests, repeats, out)
        console().print(summary(frame).to_string(index=False, float_format=format_measured))


@app.command()
def give_back(
    memory: Annotated[str, typer.Option(help="RAM of the guest; 7/8 of it are ballooned")] = "1GiB",
    guest: Annotated[
        list[str] | None, typer.Option(help="Who touches: thread, kvm, linux; several times")
    ] = None,
    thp: Annotated[bool, typer.Option("--thp/--no-thp", help="Huge pages behind RAM")] = False,
    backing: Annotated[
        list[str] | None, typer.Option(help="What is behind RAM; several times")
    ] = None,
    deflate: Annotated[bool, typer.Option(help="Deflate before the touch")] = True,
    repeats: Annotated[int, typer.Option(help="Measured repeats of each guest")] = 5,
    out: Annotated[str | None, typer.Option(help="Folder for give-back.csv")] = None,
) -> None:
    """Time a guest's first touch of pages that its balloon gave back: per page or huge page.

    By default by a thread and in a virtual machine, some seconds.
    """
    from ..freeing.giving_back import GUESTS, give_back, summary
    from ..sizes import format_measured

    with reported(out=out):
        guests: Any = guest or GUESTS
        frame = give_back(memory, guests, thp, repeats, backing or (), deflate, out)
        console().print(summary(frame).to_string(index=False, float_format=format_measured))
