"""Names of cases as readers know them."""

from __future__ import annotations

STATES = {
    "idle": "idle",
    "pagecache": "page cache",
    "tmpfs30": "tmpfs, 30 % deleted",
    "tmpfs50": "tmpfs, 50 % deleted",
    "tmpfs70": "tmpfs, 70 % deleted",
    "smallfiles": "small files, half deleted",
    "anon": "anonymous, half freed",
    "slab": "slab, 75 % freed",
    "cycles": "tmpfs, third inflation",
}
"""States of recorded guests (`balloonlab.linux`), in the order of notebook 7."""


def state_name(state: str) -> str:
    """Return what a recorded guest's state is called; one of the user's own as it is."""
    return STATES.get(state, state)


def pattern_name(pattern: str) -> str:
    """Return what a pattern is called: ``geometric:64``, ``trace:anon-4GiB-85-inflate``."""
    kind, _, rest = pattern.partition(":")
    if kind == "geometric":
        return "single pages" if rest == "1" else f"runs of {int(rest):,}"
    if kind == "trace":
        return state_name(rest.removeprefix("linux-").partition("-")[0])
    return pattern
