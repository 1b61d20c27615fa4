"""Who runs a case: one row for each guest and host, and the making of a case from arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Never, Unpack

from .. import vcpu, wire
from ..host import BACKINGS, DISCARDS, MOST_VECTORS, VECTORED, check_vectored
from ..host.backend import HINTING
from ..kernels.pfn import PFNS_PER_BUFFER
from ..linux import NATIVE
from ..linux import find as find_linux
from ..pages import as_pfns, patterns
from ..qemu import find, protocols
from ..qemu.process import check_memory
from ..sizes import GIB, format_size, parse_pages
from . import on_kvm, on_lab, on_linux, on_qemu
from .case import CUSTOM, Case, digest
from .on_lab import FLOOR, FLOOR_DISCARD
from .options import TABLE, Options, balloon_pages, check_choice, check_options
from .stages import Repeat, own_stage

_OF_OWN_RAM = {name: backing.usable for name, backing in BACKINGS.items()}

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
    warm_up: Callable[[Case], Case] = lambda case: case  # what is run before a case's first repeat
    opening: str = ""  # what `use` does, where it takes a while
    rules: Mapping[str, Rules] = field(default_factory=dict)  # by protocol and allocation
    check_pages: Callable[[int], None] = lambda memory_pages: None  # refuses sizes of RAM
    backings: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _OF_OWN_RAM)
    """What can be behind RAM, and which calls are made on it; the defaults first."""
    states: tuple[str, ...] = ()  # patterns, where the guest has an allocator of its own
    default_pages: Callable[[Any, int], int] = patterns.default_pages
    by_difference: bool = False  # stages: they can be below zero, and decoding is in none
    describe: Callable[[Case], dict[str, Any]] = lambda case: {}  # metadata; raises what is missing


_FLOOR_RULES: Rules = {
    name: (TABLE[name].default, "it is one call over as many bytes")
    for name in (
        *("operation", "pattern", "order", "wait", "collect", "allocation", "kick_pages"),
        *("in_flight", "steps"),
    )
}
_KICK_PAGES = TABLE["kick_pages"].default
_RECORDS = {"kick_pages": (_KICK_PAGES, "its messages are no lists of pages")}
_OF_BITMAPS = {
    **_RECORDS, "allocation": ("page", "its records are made of a bitmap, not of blocks"),
}  # fmt: skip
_LAB_RULES: Mapping[str, Rules] = {
    **{name: _OF_BITMAPS for name in wire.spoken() if name != "pfn"},
    FLOOR: _FLOOR_RULES,
    "pfn": {"allocation": ("page", "a PFN names a single page")},
    "bitmap-v4": _RECORDS,
    "bitmap-v4-posted": {
        **_RECORDS,
        "allocation": ("page", "as posted, it takes single pages"),
        "in_flight": (1, "as posted, it waits for each message"),
    },
    "chunk": {"bitmaps": (TABLE["bitmaps"].most, "blocks need no bitmap")},
}


class _OfLab(Mapping[str, tuple[str, ...]]):
    """What balloonlab's own driver and device speak, those registered meanwhile too."""

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name == FLOOR:
            return (FLOOR_DISCARD,)
        if name not in wire.spoken():
            raise KeyError(name)
        return tuple(dict.fromkeys((wire.get(name).discard, *DISCARDS)))

    def __iter__(self) -> Iterator[str]:
        return iter([*wire.spoken(), FLOOR])

    def __len__(self) -> int:
        return len(wire.spoken()) + 1


_OF_LAB = _OfLab()
_BLOCKS = "a guest takes a reported page back without a message"
_AT_ONCE = "the guest sends all that it has"
_OF_BLOCKS: Rules = {
    "operation": ("inflate", _BLOCKS),
    "steps": (1, _AT_ONCE),
    "collect": (1, "a block that was answered is the guest's again"),
}

_SCOPES = ("protocol", "allocation")
"""Options whose values have rules of their own."""

SETUPS = {
    ("thread", "lab"): Setup(
        source="lab",
        protocols=_OF_LAB,
        default="bitmap-v4",
        share=on_lab.share,
        use=on_lab.use,
        operate=on_lab.operate_in_lab,
        rules=_LAB_RULES,
    ),
    ("kvm", "lab"): Setup(
        source="kvm",
        protocols=_OF_LAB,
        default="bitmap-v4",
        share=on_lab.share,
        use=on_kvm.use,
        operate=on_kvm.operate_in_kvm,
        rules=_LAB_RULES,
        describe=lambda case: vcpu.describe(),
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
                "threads": (1, "its own main thread discards"),
                "collect": (1, "it discards before it answers"),
                "allocation": ("page", "a PFN names a single page, and blocks are reported"),
                "kick_pages": (_KICK_PAGES, "it is told apart by messages as Linux sends them"),
                "in_flight": (1, "a kick is answered before the next one can be sent"),
                "steps": (1, "a repeat is one step in a fresh process"),
            },
            protocols.REPORTING: {
                "operation": ("inflate", _BLOCKS),
                "order": ("as is", "blocks come as the allocator has them"),
            },
        },
        check_pages=check_memory,
        backings=on_qemu.VERBS_OF,
        by_difference=True,
        describe=lambda case: {"qemu": ".".join(map(str, find()[1]))},
    ),
    ("linux", "lab"): Setup(
        source="linux",
        protocols={
            "pfn": tuple(DISCARDS),
            HINTING: ("range", *(name for name in DISCARDS if name != "range")),
            protocols.REPORTING: ("range", *(name for name in DISCARDS if name != "range")),
        },
        default="pfn",
        share=on_linux.share,
        use=on_linux.use,
        operate=on_linux.operate_in_linux,
        warm_up=on_linux.warm_up,
        opening="booting the guest",
        rules={
            "": {
                "wait": ("block", "Linux's driver sleeps"),
                "bitmaps": (TABLE["bitmaps"].most, "no protocol of Linux has bitmaps"),
                "allocation": ("page", "Linux's driver takes single pages"),
                "kick_pages": (_KICK_PAGES, "Linux's driver sends no other number"),
                "in_flight": (1, "Linux's driver waits for each message"),
                "order": ("as is", "pages come as its allocator has them"),
                "thp": (False, "its memory is a shared file of small pages"),
            },
            HINTING: _OF_BLOCKS,
            protocols.REPORTING: _OF_BLOCKS,
        },
        check_pages=on_linux.check_memory,
        backings={"memfd": ("remove",)},
        states=NATIVE,
        default_pages=on_linux.default_pages,
        by_difference=True,
        describe=lambda case: {"linux": find_linux(case.linux, case.modules).release},
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
        parts |= {("translate", "all"), ("send", "notify")}
        parts |= set() if source == "linux" else {("send", "pack")}
        parts |= set() if source == "qemu" else {("send", "decode")}
        whole = source == "linux" and protocol != "pfn"  # the guest's part is not split
        parts |= set() if whole else {(own_stage(operation)[0], "all")}
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
        _check_protocol(guest, host, protocol, None)  # no other setup has it: a slip
    usual_discard = next(iter(setup.protocols.get(protocol, ())), "")
    chosen |= {"protocol": protocol, "discard": chosen["discard"] or usual_discard}
    chosen["vectors"] = _vectors(chosen["vectors"], chosen["discard"], protocol)
    chosen["backing"] = chosen["backing"] or next(iter(setup.backings))
    chosen["verb"] = chosen["verb"] or next(iter(setup.backings.get(chosen["backing"], ())), "")
    if protocol != protocols.REPORTING or setup.states:
        chosen["block_order"] = 0
    if setup.states:
        check_choice("pattern", pattern, setup.states, f" with guest={guest!r}")
    if isinstance(pattern, str):
        given, usual = None, 8 * GIB if setup.states else patterns.default_memory(pattern)
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
        n_pages = setup.default_pages(pattern, memory_pages) if given is None else given.size
    return Case(
        memory_pages, n_pages, **chosen, source=setup.source, given=given,
        sized_by_pattern=balloon is None,
    )  # fmt: skip


def _vectors(given: int | None, discard: str, protocol: str) -> int:
    """Return the ranges of a vectored call, 0 where no call is vectored."""
    if discard in VECTORED:
        return given or (PFNS_PER_BUFFER if protocol == "pfn" else MOST_VECTORS)
    if given is not None:
        rule = f"vectors must be left out with discard={discard!r}"
        raise ValueError(f"{rule}, got {given}: only {' and '.join(VECTORED)} have vectored calls")
    return 0


def _check_protocol(guest: str, host: str, protocol: Any, discard: str | None) -> None:
    """Refuse a protocol that the two do not speak, and a discard that the host does not do."""
    offered, where = SETUPS[guest, host].protocols, f"with guest={guest!r} and host={host!r}"
    elsewhere = [pair for pair, other in SETUPS.items() if protocol in list(other.protocols)]
    hint = ""
    if elsewhere:
        hint = ": it is measured with guest={!r} and host={!r}".format(*elsewhere[0])
    check_choice("protocol", protocol, offered, f" {where}", hint)
    allowed = offered[protocol]
    if discard is not None and discard not in allowed:
        several = len(allowed) > 1
        only = f"one of {', '.join(allowed)}" if several else f"{allowed[0]!r} (or left out)"
        raise ValueError(
            f"discard must be {only} for protocol={protocol!r} {where}, "
            f"got {discard!r}: it does nothing else"
        )


def _check_backing(case: Case) -> None:
    """Refuse calls that do nothing there, and sizes that are no whole pages of it (ValueError)."""
    setup, backing = setup_of(case), BACKINGS[case.backing]
    where = f"guest={case.guest!r} and host={case.host!r}"
    check_choice("backing", case.backing, setup.backings, f" with {where}")
    verbs, where = setup.backings[case.backing], f"with backing={case.backing!r} and {where}"
    if case.verb not in verbs:
        reason = backing.verbs[case.verb]
        reason = reason if isinstance(reason, str) else "nothing else is done there"
        one = " or ".join(map(repr, verbs))
        raise ValueError(f"verb must be {one} {where}, got {case.verb!r}: {reason}")
    if case.thp and backing.no_thp:
        raise ValueError(f"thp must be False {where}, got True: {backing.no_thp}")
    for name in ("memory", "balloon"):
        if (size := getattr(case, f"{name}_bytes")) % backing.page_bytes:
            pages = f"whole pages of {format_size(backing.page_bytes)}"
            raise ValueError(f"{name} must be {pages} {where}, got {format_size(size)}")


def check_rules(case: Case) -> None:
    """Refuse values that the case's guest, host or protocol cannot have (ValueError)."""
    setup = setup_of(case)
    _check_protocol(case.guest, case.host, case.protocol, case.discard)
    _check_backing(case)
    if case.discard in VECTORED:
        check_vectored(case.verb)
    where = f"guest={case.guest!r}" if case.guest != "thread" else f"host={case.host!r}"
    scopes = {"": where}
    scopes |= {getattr(case, name): f"{name}={getattr(case, name)!r}" for name in _SCOPES}
    for scope, where in scopes.items():
        for name, (only, reason) in setup.rules.get(scope, {}).items():
            value = getattr(case, name)
            if value != only:
                raise ValueError(f"{name} must be {only!r} with {where}, got {value!r}: {reason}")
