"""Measuring: a case, its repeats on a guest and a host, tidy frames, and their storage."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compare, measure, sweep
    from .ratio import ratios
    from .reading import load, pool
    from .run import Run, totals
    from .tables import columns
    from .timelines import load_timeline, timeline

__all__ = [
    "Run", "columns", "compare", "load", "load_timeline", "measure", "pool", "ratios",
    "sweep", "timeline", "totals",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(("compare", "measure", "sweep"), "api"),
    **dict.fromkeys(("Run", "totals"), "run"),
    **dict.fromkeys(("load", "pool"), "reading"),
    **dict.fromkeys(("load_timeline", "timeline"), "timelines"),
    **{"columns": "tables", "ratios": "ratio"},
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line reads the option table without numba."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
