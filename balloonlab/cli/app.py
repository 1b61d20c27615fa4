"""The ``balloonlab`` command: what all of its subcommands share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import leave

KNOWN = (ValueError, TypeError, MemoryError, OSError, RuntimeError, ImportError)
"""Errors with a message for people: NotImplementedError is a RuntimeError."""

app = typer.Typer(
    no_args_is_help=True,
    help="How fast can a guest give memory back? Real memory, stage by stage.",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"balloonlab {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@contextmanager
def reported(kept: Callable[[], str] = lambda: "", out: str | Path | None = None) -> Iterator[None]:
    """Report errors and Ctrl-C in one line on standard error, and exit with 2 or 130.

    A command loads its modules first, then does all else within this block. After Ctrl-C or a
    failure in mid-run `kept` is asked what is left of it. `out`, what is being written, is named
    where an ``OSError`` names no file (a full disk).
    """
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):  # typer's own
        raise
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. {kept()}".rstrip(), err=True)
        raise typer.Exit(130) from None
    except KNOWN as error:
        message = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename is None and out is not None:
            message = f"{error.strerror or message}, while writing to {out}"
        if isinstance(error, RuntimeError | OSError) and (left := kept()):
            message = f"{message.rstrip('.')}. {left}"
        typer.echo(f"balloonlab: {message}", err=True)
        raise typer.Exit(2) from None


def console() -> Console:
    """Return a console that tables fit: at least 80 columns."""
    return Console(width=max(Console().width, 80))
