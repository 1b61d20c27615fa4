"""What QEMU's balloon device speaks, and what of a measurement's arguments it can do."""

from __future__ import annotations

from typing import Any

from ..guest import REPORTING as REPORTING
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..kernels.buddy import N_ORDERS

DISCARDS = {"pfn": "page", REPORTING: "range"}
"""The protocols, and how QEMU applies each."""

LARGEST_ORDER = N_ORDERS - 1
PAGEBLOCK_ORDER = 9
"""Linux reports free blocks of this order and up: 2 MiB (``pageblock_order``)."""

_FIXED = {
    "wait": ("block", "its answer is waited for in a system call"),
    "bitmaps": (MAX_BITMAPS, "no protocol of its device has bitmaps"),
    "steps": (1, "a repeat is one step in a fresh process"),
}
_FIXED_OF_REPORTING = {
    "operation": ("inflate", "a guest takes a reported page back without telling anybody"),
    "order": ("as is", "blocks come as the allocator has them"),
}


def check_arguments(protocol: str, discard: str | None, **others: Any) -> None:
    """Refuse what QEMU's device cannot do (ValueError).

    Parameters
    ----------
    protocol, discard
        As in `balloonlab.measure`.
    **others
        Its ``wait``, ``bitmaps``, ``steps``, ``operation`` and ``order``.
    """
    if protocol not in DISCARDS:
        raise ValueError(
            f"protocol must be one of {', '.join(DISCARDS)} with host='qemu', got {protocol!r}"
        )
    if discard not in (None, DISCARDS[protocol]):
        raise ValueError(
            f"discard must be {DISCARDS[protocol]!r} (or left out) for protocol={protocol!r} with "
            f"host='qemu', got {discard!r}: an unmodified QEMU does nothing else"
        )
    _check_fixed(_FIXED, "host='qemu'", others)
    if protocol == REPORTING:
        _check_fixed(_FIXED_OF_REPORTING, f"protocol={REPORTING!r}", others)


def _check_fixed(fixed: dict[str, tuple[Any, str]], where: str, given: dict[str, Any]) -> None:
    for name, (only, reason) in fixed.items():
        if given[name] != only:
            raise ValueError(f"{name} must be {only!r} with {where}, got {given[name]!r}: {reason}")
