"""Who runs a case: one row for each guest and host, and the making of a case from arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Never, Unpack

from .. import vcpu, wire
from ..host import DISCARDS
from ..pages import as_pfns, patterns
from ..qemu import find, protocols
from ..qemu.process import check_memory
from ..sizes import GIB, parse_pages
from . import on_kvm, on_lab, on_qemu
from .case import CUSTOM, Case, digest
from .on_lab import FLOOR, FLOOR_DISCARD
from .options import TABLE, Options, balloon_pages, check_choice, check_options
from .stages import Repeat, own_stage

Rules = Mapping[str, tuple[Any, str]]
"""Options that can have only one value, and why."""


@dataclass(frozen=True)
class Setup:
    """A row: a guest and a host that were wired."""

    source: str  # in the frame
    protocols: Mapping[str, tuple[str, ...]]  # with how the host can apply each, the default first
    default: str  # protocol
    share: Callable[[Case], Any]  # what cases of one kind of memory share
    use: Callable[[Case, Any], AbstractContextManager[Any]]  # makes of it what one repeat runs on
    operate: Callable[[Case, Any, str, int], Repeat]  # runs one: case, of `use`, run_id, number
    rules: Mapping[str, Rules] = field(default_factory=dict)  # of a protocol: by its name
    check_pages: Callable[[int], None] = lambda memory_pages: None  # refuses sizes of RAM
    by_difference: bool = False  # stages: they can be below zero, and decoding is in none
    describe: Callable[[], dict[str, Any]] = dict  # for the metadata; raises what is missing


_FLOOR_RULES: Rules = {
    name: (TABLE[name].default, "it is one call over as many bytes")
    for name in ("operation", "pattern", "order", "wait", "steps")
}
_OF_LAB = {
    **{name: tuple(dict.fromkeys((wire.get(name).discard, *DISCARDS))) for name in wire.formats()},
    FLOOR: (FLOOR_DISCARD,),
}
_BLOCKS = "a guest takes a reported page back without a message"

SETUPS = {
    ("thread", "lab"): Setup(
        source="lab",
        protocols=_OF_LAB,
        default="bitmap-v4",
        share=on_lab.share,
        use=on_lab.use,
        operate=on_lab.operate_in_lab,
        rules={FLOOR: _FLOOR_RULES},
    ),
    ("kvm", "lab"): Setup(
        source="kvm",
        protocols=_OF_LAB,
        default="bitmap-v4",
        share=on_lab.share,
        use=on_kvm.use,
        operate=on_kvm.operate_in_kvm,
        rules={FLOOR: _FLOOR_RULES},
        describe=vcpu.describe,
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
    if protocol != FLOOR:
        parts |= {(own_stage(operation)[0], "all"), ("translate", "all")}
        parts |= {("send", "pack"), ("send", "notify")}
        parts |= set() if differences else {("send", "decode")}
    return parts, differences


def make_case(**options: Unpack[Options[Never]]) -> Case:
    """Return the case of some options, each checked by itself; no pages are made yet."""
    chosen = check_options(options)
    guest, host, pattern = chosen["guest"], chosen["host"], chosen["pattern"]
    if (guest, host) not in SETUPS:
        pairs = ", ".join(f"guest={g!r} with host={h!r}" for g, h in SETUPS)
        raise ValueError(f"guest={guest!r} cannot be with host={host!r}: choose of {pairs}")
    setup = SETUPS[guest, host]
    protocol = setup.default if chosen["protocol"] is None else chosen["protocol"]
    if not any(protocol in list(row.protocols) for row in SETUPS.values()):
        _check_protocol(setup, host, protocol, None)  # no other setup has it: a slip
    usual_discard = next(iter(setup.protocols.get(protocol, ())), "")
    chosen |= {"protocol": protocol, "discard": chosen["discard"] or usual_discard}
    if protocol != protocols.REPORTING:
        chosen["block_order"] = 0
    if isinstance(pattern, str):
        given, usual = None, patterns.default_memory(pattern)
    else:
        given, usual = as_pfns(pattern, "pattern"), 8 * GIB
        chosen["pattern"] = f"{CUSTOM}:{digest(given.tobytes())}"
    memory, balloon = chosen.pop("memory"), chosen.pop("balloon")
    memory_pages = parse_pages(usual if memory is None else memory, "memory")
    if memory_pages == 0:
        raise ValueError(f"memory must be at least one 4 KiB page, got {memory!r}")
    setup.check_pages(memory_pages)
    if balloon is not None:
        n_pages = balloon_pages(balloon, memory_pages)
    else:
        n_pages = patterns.default_pages(pattern, memory_pages) if given is None else given.size
    return Case(
        memory_pages, n_pages, **chosen, source=setup.source, given=given,
        sized_by_pattern=balloon is None,
    )  # fmt: skip


def _check_protocol(setup: Setup, host: str, protocol: Any, discard: str | None) -> None:
    """Refuse a protocol that the host does not speak, and a discard that it does not do."""
    elsewhere = [h for (_, h), other in SETUPS.items() if protocol in list(other.protocols)]
    hint = f": it is measured with host={elsewhere[0]!r}" if elsewhere else ""
    check_choice("protocol", protocol, setup.protocols, f" with host={host!r}", hint)
    allowed = setup.protocols[protocol]
    if discard is not None and discard not in allowed:
        several = len(allowed) > 1
        only = f"one of {', '.join(allowed)}" if several else f"{allowed[0]!r} (or left out)"
        raise ValueError(
            f"discard must be {only} for protocol={protocol!r} with host={host!r}, "
            f"got {discard!r}: it does nothing else"
        )


def check_rules(case: Case) -> None:
    """Refuse values that the case's guest, host or protocol cannot have (ValueError)."""
    _check_protocol(setup_of(case), case.host, case.protocol, case.discard)
    scopes = {"": f"host={case.host!r}", case.protocol: f"protocol={case.protocol!r}"}
    for scope, where in scopes.items():
        for name, (only, reason) in setup_of(case).rules.get(scope, {}).items():
            value = getattr(case, name)
            if value != only:
                raise ValueError(f"{name} must be {only!r} with {where}, got {value!r}: {reason}")
