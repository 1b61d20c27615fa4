"""The ``balloonlab`` command."""

from __future__ import annotations

import os
import signal
from typing import Any

__all__ = ["main"]


def leave(*_: Any) -> None:
    """End at once on Ctrl-C: while modules load there is nothing to keep or to close.

    An exception instead would be turned into another one by compiled modules.
    """
    os.write(2, b"Interrupted.\n")
    os._exit(130)


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
        signal.signal(signal.SIGINT, leave)
    from .commands import app

    app()
