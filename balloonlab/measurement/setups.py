"""Who runs a case: one row for each guest and host, and the making of a case from arguments."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Never, Unpack

from .. import wire
from ..host import DISCARDS
from ..pages import as_pfns, patterns
from ..qemu import find, protocols
from ..qemu.process import check_memory
from ..sizes import Size, parse_pages
from . import floor, on_lab, on_qemu
from .case import CUSTOM, Case, default_memory, digest
from .options import TABLE, Options, balloon_pages, check_options
from .stages import Repeat, own_stage

Rules = Mapping[str, tuple[Any, str]]
"""Options that can have only one value, and why."""


@dataclass(frozen=True)
class Setup:
    """A row: a guest and a host that were wired.

    Attributes
    ----------
    source : str
        What stands in the frame.
    protocols : mapping
        Those that it speaks, with how the host can apply each, the default first.
    default : str
        Protocol where none is given.
    share, use : callable
        Open what cases of one kind of memory share; make of it what one repeat runs on.
    operate : callable
        Run one repeat: case, what `use` gave, run_id, number.
    rules : mapping
        Options that can have only one value; of a protocol: by its name.
    check_pages : callable
        Refuse sizes of RAM that it cannot have.
    by_difference : bool
        Whether its stages are differences, which can be below zero, and decoding is in none.
    describe : callable
        Return what the metadata should say of it; raises where something is missing.
    """

    source: str
    protocols: Mapping[str, tuple[str, ...]]
    default: str
    share: Callable[[Case], Any]
    use: Callable[[Case, Any], AbstractContextManager[Any]]
    operate: Callable[[Case, Any, str, int], Repeat]
    rules: Mapping[str, Rules] = field(default_factory=dict)
    check_pages: Callable[[int], None] = lambda memory_pages: None
    by_difference: bool = False
    describe: Callable[[], dict[str, Any]] = dict


def _lab_discards(protocol: str) -> tuple[str, ...]:
    usual = wire.get(protocol).discard
    return (usual, *(name for name in DISCARDS if name != usual))


_FLOOR = "it is one call over as many bytes"
_BLOCKS = "a guest takes a reported page back without a message"

SETUPS = {
    ("thread", "lab"): Setup(
        source="lab",
        protocols={
            **{name: _lab_discards(name) for name in wire.formats()},
            floor.PROTOCOL: (floor.DISCARD,),
        },
        default="bitmap-v4",
        share=on_lab.share,
        use=on_lab.use,
        operate=on_lab.operate_in_lab,
        rules={
            floor.PROTOCOL: {
                "operation": ("inflate", _FLOOR),
                "pattern": ("idle", _FLOOR),
                "order": ("as is", _FLOOR),
                "wait": ("block", _FLOOR),
                "steps": (1, _FLOOR),
            }
        },
    ),
    ("thread", "qemu"): Setup(
        source="qemu",
        protocols={name: (discard,) for name, discard in protocols.DISCARDS.items()},
        default="pfn",
        share=on_qemu.share,
        use=on_qemu.use,
        operate=on_qemu.operate_in_qemu,
        rules={
            "": {
                "wait": ("block", "its answer is waited for in a system call"),
                "bitmaps": (TABLE["bitmaps"].most, "no protocol of its device has bitmaps"),
                "steps": (1, "a repeat is one step in a fresh process"),
            },
            protocols.REPORTING: {
                "operation": ("inflate", _BLOCKS),
                "order": ("as is", "blocks come as the allocator has them"),
            },
        },
        check_pages=check_memory,
        by_difference=True,
        describe=lambda: {"qemu": ".".join(map(str, find()[1]))},
    ),
}


def setup_of(case: Case) -> Setup:
    """Return the row of a case."""
    return SETUPS[case.guest, case.host]


def parts_of(source: str, protocol: str, operation: str) -> tuple[set[tuple[str, str]], bool]:
    """Return the (stage, part) that a repeat's rows have, and whether times can be below zero."""
    parts = {("discard", "all"), ("remainder", "all")}
    differences = any(row.by_difference for row in SETUPS.values() if row.source == source)
    if protocol != floor.PROTOCOL:
        parts |= {(own_stage(operation)[0], "all"), ("translate", "all")}
        parts |= {("send", part) for part in ("pack", "notify")}
        parts |= set() if differences else {("send", "decode")}
    return parts, differences


def make_case(**options: Unpack[Options[Never]]) -> Case:
    """Return the case of some options, each checked by itself; no pages are made yet.

    Raises
    ------
    ValueError, TypeError
        An argument breaks a rule; the message names it.
    """
    chosen = check_options(options)
    guest, host, pattern = chosen["guest"], chosen["host"], chosen["pattern"]
    if (guest, host) not in SETUPS:
        pairs = ", ".join(f"guest={g!r} with host={h!r}" for g, h in SETUPS)
        raise ValueError(f"guest={guest!r} cannot be with host={host!r}: choose of {pairs}")
    setup = SETUPS[guest, host]
    if chosen["protocol"] is None:
        chosen["protocol"] = setup.default
    protocol = chosen["protocol"]
    chosen["discard"] = _discard(setup, host, protocol, chosen["discard"])
    if protocol != protocols.REPORTING:
        chosen["block_order"] = 0
    memory: Size | None = chosen.pop("memory")
    usual = default_memory(pattern)  # also checks the spelling
    memory_pages = parse_pages(usual if memory is None else memory, "memory")
    setup.check_pages(memory_pages)
    given = None
    if not isinstance(pattern, str):
        given = as_pfns(pattern, "pattern")
        chosen["pattern"] = f"{CUSTOM}:{digest(given.tobytes())}"
    balloon = chosen.pop("balloon")
    if balloon is not None:
        n_pages = balloon_pages(balloon, memory_pages)
    elif given is None:
        n_pages = patterns.default_pages(str(pattern), memory_pages)
    else:
        n_pages = given.size
    return Case(
        memory_pages=memory_pages,
        balloon_pages=n_pages,
        source=setup.source,
        given=given,
        sized_by_pattern=balloon is None,
        **chosen,
    )


def _discard(setup: Setup, host: str, protocol: Any, discard: str | None) -> str:
    """Return how the host applies a protocol; refuses what it does not speak or do."""
    if not isinstance(protocol, str) or protocol not in setup.protocols:
        elsewhere = [h for (_, h), other in SETUPS.items() if protocol in list(other.protocols)]
        hint = f": it is measured with host={elsewhere[0]!r}" if elsewhere else ""
        near = difflib.get_close_matches(str(protocol), setup.protocols, 1)
        if near and not elsewhere:
            hint = f"; did you mean {near[0]!r}?"
        raise ValueError(
            f"protocol must be one of {', '.join(setup.protocols)} with host={host!r}, "
            f"got {protocol!r}{hint}"
        )
    allowed = setup.protocols[protocol]
    if discard is not None and discard not in allowed:
        several = len(allowed) > 1
        only = f"one of {', '.join(allowed)}" if several else f"{allowed[0]!r} (or left out)"
        raise ValueError(
            f"discard must be {only} for protocol={protocol!r} with host={host!r}, "
            f"got {discard!r}: it does nothing else"
        )
    return discard or allowed[0]


def check_rules(case: Case) -> None:
    """Refuse values that the case's guest, host or protocol cannot have (ValueError)."""
    rules = setup_of(case).rules
    scopes = (("", f"host={case.host!r}"), (case.protocol, f"protocol={case.protocol!r}"))
    for scope, where in scopes:
        for name, (only, reason) in rules.get(scope, {}).items():
            value = getattr(case, name)
            if value != only:
                raise ValueError(f"{name} must be {only!r} with {where}, got {value!r}: {reason}")


def describe_setups(cases: Iterable[Case]) -> dict[str, Any]:
    """Return what the metadata says of the cases' hosts, such as QEMU's version."""
    found: dict[str, Any] = {}
    for case in {case.source: case for case in cases}.values():
        found |= setup_of(case).describe()
    return found
