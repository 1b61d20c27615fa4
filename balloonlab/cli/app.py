"""The ``balloonlab`` command: what all of its subcommands share."""

from __future__ import annotations

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="How fast can a guest give memory back? Real memory, stage by stage.",
    pretty_exceptions_enable=False,
)


def console() -> Console:
    """Make a console that cuts no cell: long lines are better."""
    from ..terminal import WIDTH

    return Console(width=max(Console().width, WIDTH))
