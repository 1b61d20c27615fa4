"""Commands about what was not measured: calibrate."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app, console, reported


@app.command()
def calibrate(
    out: Annotated[str, typer.Option(help="File for the costs")] = "balloonlab-costs.json",
    guest: Annotated[
        list[str] | None, typer.Option(help="Who runs the driver: thread, kvm; several times")
    ] = None,
    memory: Annotated[str, typer.Option(help="RAM of the guest")] = "256MiB",
    starts: Annotated[int, typer.Option(help="Process starts")] = 2,
) -> None:
    """Measure the unit costs of this machine: a page, a kick, a call. Under three minutes.

    They are stored in one file; bl.predict(..., model=FILE) then predicts for this machine. Shown
    are those of touched memory without huge pages.
    """
    from ..model.calibration import calibrate
    from ..sizes import format_measured

    with reported(out=out):
        model = calibrate(out, guest or ("thread",), memory, starts)
        table = model.costs
        usual = ~table["group"].str.contains("touched=False|thp=True|collected=True")
        table = table[usual & (table["identified"] | (table["ns"] > 0))].copy()
        table["message"] = table["group"].str.extract("message=([^,]*)")[0].fillna("")
        shown = table[["message", "name", "ns", "low_ns", "high_ns", "identified"]]
        console().print(shown.to_string(index=False, float_format=format_measured))
        console().print(f"Costs: {out}", soft_wrap=True)
