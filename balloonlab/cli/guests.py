"""Commands about real guests: capture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app


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
    from ..capture import STATES, plan, record_all

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
