"""The plan: every folder of ``data/`` that holds times, and how it is measured; one table.

A row is a call of a public function in each of several process starts. Within a start a case is
measured once, or few times where a start is much longer than its cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from ..host import POLICIES, host_policy
from ..measurement.options import names_of

HEADLINE_STARTS, STARTS = 10, 5
QUICK_HEADLINE_STARTS, QUICK_STARTS = 2, 1


@dataclass(frozen=True)
class Row:
    """A folder of the plan.

    Attributes
    ----------
    name : str
        The folder.
    what : str
        What it measures, in a few words.
    function : str
        Public function of balloonlab that does, such as ``sweep`` or ``harness.zero_pages``.
    arguments : dict
        Its arguments, as JSON holds them.
    quick : dict
        Those that a quick campaign has instead.
    starts : int
        Process starts.
    """

    name: str
    what: str
    function: str
    arguments: dict[str, Any]
    quick: dict[str, Any] = field(default_factory=dict)
    starts: int = STARTS

    def arguments_of(self, quick: bool) -> dict[str, Any]:
        """Return the arguments of a start."""
        return self.arguments | (self.quick if quick else {})

    def starts_of(self, quick: bool) -> int:
        """Return how many process starts there are."""
        few = QUICK_HEADLINE_STARTS if self.starts == HEADLINE_STARTS else QUICK_STARTS
        return min(few, self.starts) if quick else self.starts


BOTH = ["pfn", "bitmap-v4"]
GUESTS = ["thread", "kvm"]
STATES = [False, True]
BACKINGS = ["anonymous", "memfd", "hugetlb", "file"]
VERBS = ["dontneed", "free", "remove", "punch", "map"]
TMPFS = "trace:linux-tmpfs50-2GiB-85-s1-inflate"
RECORDED = (
    *("idle", "pagecache", "tmpfs30", "tmpfs50", "tmpfs70", "smallfiles", "anon", "slab"),
    "cycles",
)
ONCE = {"repeats": 1}
SMALL = {"memory": "256MiB"}
GIB_ONCE = {"memory": "1GiB", "repeats": 1}


def _recorded(memory: str) -> list[str]:
    """Return the inflations of recorded guests of a size; of that which cycles, the last."""
    return [
        f"trace:{state}-{memory}-85-inflate{'-3' if state == 'cycles' else ''}"
        for state in RECORDED
    ]


def _drivers(memory: str) -> list[dict[str, Any]]:
    """Return guests of Linux's driver, and the lab's on the pages that such guests gave."""
    pairs: list[tuple[dict[str, Any], str, str]] = [
        ({"balloon": 1825357824}, "idle", "trace:linux-idle-2GiB-85-s1-inflate"),
        ({"balloon": "1GiB"}, "tmpfs50", TMPFS),
    ]
    return [
        {"memory": memory, "guest": guest, "pattern": pattern, "touched": touched, **balloon}
        for balloon, *patterns in pairs
        for touched in STATES
        for guest, pattern in zip(("linux", "thread"), patterns, strict=True)
    ]


def _policies(memory: str, linux: str) -> list[dict[str, Any]]:
    """Return every host policy, equal ones once, on several guests' pages and by Linux's driver."""
    guests: list[dict[str, Any]] = [
        {"memory": memory, "pattern": "idle"},
        {"memory": memory, "pattern": "random", "balloon": 0.5},
        {"memory": memory, "pattern": "aged", "balloon": 0.5},
        {"pattern": TMPFS},
        {"memory": linux, "guest": "linux"},
    ]
    policies: list[dict[str, Any]] = []
    for name in POLICIES:
        policies += [policy] if (policy := host_policy(name)) not in policies else []
    return [policy | guest for policy in policies for guest in guests]


def _headline(name: str, what: str, **options: Any) -> Row:
    sizes = {"memory": "8GiB", "balloon": "7GiB"}
    small = {"memory": "256MiB", "balloon": "192MiB"}  # what a Linux of that size can give
    return Row(name, what, "reproduce", sizes | ONCE | options, small, HEADLINE_STARTS)


def _sweep(name: str, what: str, quick: dict[str, Any] = SMALL, **options: Any) -> Row:
    return Row(name, what, "sweep", ONCE | options, quick)


def _give_back(name: str, what: str, repeats: int = 1, **options: Any) -> Row:
    arguments = {"memory": "1GiB", "repeats": repeats} | options
    return Row(name, what, "give_back", arguments, {**SMALL, "repeats": 1})


def _encodings(name: str, what: str, quick: dict[str, Any], **options: Any) -> Row:
    return Row(name, what, "encodings", options, quick)


def _timeline(protocol: str) -> Row:
    what = f"every interval of one inflation with {protocol}, to be drawn"
    arguments = {"memory": "64MiB", "protocol": protocol}
    name = f"timeline-{protocol.partition('-')[0]}"
    return Row(name, what, "timeline", arguments, starts=1)


PLAN = (
    _headline("headline", "7 of 8 GiB by a thread (lab)"),
    _headline("kvm", "the same in a virtual machine", guest="kvm"),
    _headline("linux", "the same by Linux's own driver", guest="linux"),
    _headline("qemu", "the same in an unmodified QEMU", host="qemu"),
    _sweep(
        "sizes", "idle guests of 1 to 8 GiB",
        {"memory": ["32MiB", "64MiB", "128MiB", "256MiB"]},
        memory=["1GiB", "2GiB", "4GiB", "8GiB"], protocol=BOTH, touched=STATES, thp=STATES,
    ),
    _sweep(
        "kvm-sizes", "idle guests of 1 to 4 GiB in a virtual machine; 8 GiB is in kvm",
        {"memory": ["64MiB", "128MiB", "256MiB"]},
        memory=["1GiB", "2GiB", "4GiB"], protocol=BOTH, touched=STATES, guest="kvm",
    ),
    _sweep(
        "vms", "thread and virtual machine, huge pages and not", memory="1GiB",
        protocol=[*BOTH, "madvise"], touched=STATES, thp=STATES, guest=GUESTS,
    ),
    _sweep(
        "patterns", "six patterns, discards per page and range", memory="1GiB", balloon=0.5,
        protocol=BOTH, discard=["page", "range"], touched=STATES,
        pattern=["idle", "random", "huge", "aged", "every:2", "geometric:64"],
    ),
    _sweep(
        "runs", "runs of 1 to 4096 pages on average", memory="1GiB", balloon=0.5, protocol=BOTH,
        pattern=[f"geometric:{4**n}" for n in range(7)],
    ),
    _sweep(
        "density", "shares of memory, pages at random", memory="1GiB", protocol=BOTH,
        pattern="random", balloon=[0.05, 0.1, 0.25, 0.5, 0.75, 0.9],
    ),
    _sweep(
        "guests", "pages of recorded guests", {"pattern": _recorded("2GiB")}, protocol=BOTH,
        pattern=_recorded("4GiB"),
    ),
    Row(
        "drivers", "Linux's driver, and the lab's on its guests' pages", "compare",
        {"cases": _drivers("2GiB"), "protocol": "pfn", "discard": "page", **ONCE},
    ),
    Row(
        "ladder", "from the legacy driver to the floor", "bench",
        {"memory": "1GiB", "guests": GUESTS, **ONCE}, SMALL,
    ),
    Row(
        "policies", "what hosts can do with today's message", "compare",
        {"cases": _policies("512MiB", "1GiB"), "protocol": "pfn", **ONCE},
        {"cases": _policies("256MiB", "256MiB")},
    ),
    _sweep(
        "kick-pages", "pages per message", memory="512MiB", protocol="pfn", guest=GUESTS,
        discard=["page", "sorted-vector"],
        kick_pages=[64, 128, 256, 512, 1024, 4096, 16384, 65536],
    ),
    _sweep(
        "in-flight", "messages in flight", memory="512MiB", protocol="pfn", guest=GUESTS,
        discard=["page", "sorted-vector"], in_flight=[1, 2, 4, 8, 32],
    ),
    _sweep(
        "threads", "threads that discard", memory="1GiB", protocol="pfn",
        discard=["page", "range", "sorted-vector"], threads=[1, 2],
    ),
    _sweep(
        "backings", "every call on every backing", {"memory": "64MiB"}, memory="256MiB",
        balloon=0.5, protocol=BOTH, pattern=["idle", "random"], guest=GUESTS, backing=BACKINGS,
        verb=VERBS,
    ),
    _sweep(
        "qemu-backings", "QEMU's device on three backings", memory="1GiB", host="qemu",
        protocol=["pfn", "reporting"], touched=STATES, backing=BACKINGS[:3],
    ),
    Row(
        "frees", "what every call frees on every backing", "frees",
        {"memory": "32MiB", **ONCE}, {"memory": "16MiB"},
    ),
    _give_back("give-back", "first touch of returned pages, by backing", backings=BACKINGS),
    _give_back("give-back-thp", "the same of huge pages", thp=True),
    _give_back("give-back-linux", "the same by Linux", guests=["linux"]),
    _give_back(
        "give-back-kept", "first touch of what is in the balloon", backings=BACKINGS[:2],
        deflate=False,
    ),
    _give_back(
        "give-back-kept-linux", "first touch of what Linux reported", guests=["linux"],
        deflate=False,
    ),
    Row("collapse", "huge pages broken and collapsed", "collapse", GIB_ONCE, SMALL),
    Row("impact", "another thread beside an inflation", "impact", GIB_ONCE, SMALL),
    _encodings(
        "encodings", "every format on five patterns", {"repeats": 1},
        patterns=["idle", "random", "geometric:4", "geometric:64", "aged"], memory="256MiB",
        balloon="128MiB", repeats=5,
    ),
    _encodings(
        "encodings-inflations", "the same with inflations", {"memory": "64MiB", "balloon": "32MiB"},
        patterns=["random", "geometric:4"], memory="256MiB", balloon="128MiB", orders=["list"],
        guests=GUESTS, repeats=1,
    ),
    _encodings(
        "encodings-guests", "the same of a recorded guest", {"guests": ["thread"]},
        patterns=[TMPFS], orders=["list"], guests=GUESTS, repeats=1,
    ),
    Row(
        "crossover", "every format by density and run length", "harness.crossover",
        {"memory": "64MiB", **ONCE}, {"memory": "16MiB"},
    ),
    Row(
        "zero-pages", "pages that come back zero", "harness.zero_pages",
        {"memory": "256MiB", **ONCE}, {"memory": "64MiB"},
    ),
    _timeline("pfn"),
    _timeline("bitmap-v4"),
)  # fmt: skip
"""What a campaign measures, a row per folder of ``data/``."""

REFERENCE = Row(
    "reference", "drift: one lab case, again and again", "compare",
    {
        "cases": [{"protocol": "pfn"}, {"protocol": "bitmap-v4"}], "memory": "1GiB",
        "touched": True, "repeats": 3,
    },
    SMALL, starts=1,
)  # fmt: skip
"""Is measured every few minutes between the others: its times should not depend on when."""

NOT_PART = {
    "README.md": "text",
    "published.csv": "published by others",
    "published-rates.csv": "published by others",
    "traces": "pages of real guests, no times: `balloonlab capture --state all --out data/traces`",
    "contents": "a test, no times: `balloonlab verify --out data/contents`",
    "reliability": "a test, no times: `balloonlab fuzz --cases 10000000 --out data/reliability`",
    "encodings-traces": "counts of all recorded inflations, the same on every machine: "
    "`bl.encodings([...], repeats=1)`",
    "model": "fitted to the other folders: `python -m balloonlab.model data/model`",
    "since-2016.png": "drawn from the other folders: `balloonlab figures`",
    "since-2016.svg": "drawn from the other folders: `balloonlab figures`",
    "numbers.json": "computed from the other folders: `python -m tests.readme`",
    "numbers-epyc.json": "computed from an earlier campaign, on another machine",
    "numbers.tex": "computed from the other folders: `python -m tests.readme`",
}
"""What else is in ``data/``, and why a campaign leaves it alone."""


class Unit(NamedTuple):
    """A start to be measured."""

    row: Row
    number: int


def rows_of(only: str | Iterable[str] = ()) -> list[Row]:
    """Return the rows of the plan, or those of these names (ValueError)."""
    by_name = {row.name: row for row in PLAN}
    chosen = names_of("only", only, by_name) if only else list(by_name)
    return [by_name[name] for name in dict.fromkeys(chosen)]


def order(rows: Iterable[Row], seed: int, quick: bool = False) -> list[Unit]:
    """Return the starts of rows in the order in which they are measured.

    The starts of a row are spread evenly over the whole, each at a random place of its share, so
    those of all rows interleave, and an end at any moment leaves as many of each. A start's place
    depends on the seed, its row and its number alone: not on which other rows there are.
    """
    units = [Unit(row, n) for row in rows for n in range(row.starts_of(quick))]

    def place(unit: Unit) -> float:
        key = f"{seed} {unit.row.name} {unit.number}".encode()
        random = int.from_bytes(blake2b(key, digest_size=8).digest()) / 2**64
        return (unit.number + random) / unit.row.starts_of(quick)

    return sorted(units, key=place)
