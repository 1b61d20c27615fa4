"""The options of a case: one table, from which everything else about them is made.

An item of `Options` is an option; its type says what one value may be, its `Option` the rest.
From the table come the signatures and docstrings of `balloonlab.measure` and its kin, the checks
of single arguments, the options of the commands, and the columns that say which case a row is of.
`balloonlab.measurement.case.Case` has a field for each.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from inspect import Parameter, cleandoc, signature
from textwrap import fill, indent
from typing import Annotated, Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Union, get_args

import numpy as np
import numpy.typing as npt

from ..host import BACKINGS, DISCARDS, MOST_COLLECTED, MOST_THREADS, MOST_VECTORS, VERBS
from ..kernels.pfn import PFNS_PER_BUFFER
from ..kernels.sending import MOST_IN_FLIGHT
from ..sizes import Size, parse_pages
from ..wire.pfn import LEAST_KICK_PAGES, MOST_KICK_PAGES

Pattern = str | npt.ArrayLike
PathLike = str | os.PathLike[str]
Guest = Literal["thread", "kvm", "linux"]
Host = Literal["lab", "qemu"]
M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """A row of the table; what is below the blank line follows from its name and its type."""

    default: Any  # of one case; None stands for what the other arguments lead to
    help: str  # the first sentence alone on the command line
    least: int | None = None
    most: int | None = None
    column: str | None = None  # of the tidy frame and of the table of skipped cases
    skipped_only: bool = False  # no column of the frame
    flags: str | None = None  # on the command line
    listed: bool = True  # a sweep takes several values
    choices: tuple[str, ...] = ()  # where they are rows of another table, else by its type

    name: str = ""
    kind: Any = str
    hint: Any = str


# fmt: off
class Options(TypedDict, Generic[M], total=False):
    """The table. `M` is what an option takes besides one value: lists of them in a sweep."""

    memory: Annotated[Size | M | None, Option(None, column="memory_bytes", help=(
        "RAM of the guest, by default 8GiB, or that of a trace. Bytes or a string such as "
        "``8GiB``."))]
    balloon: Annotated[Size | float | M | None, Option(None, column="balloon_bytes", help=(
        "Size of the balloon, or a share of the memory such as 0.5. A share is above 0 and "
        "below 1, and rounded down to whole pages. By default 7/8 of the memory, or the size "
        "of the trace or array."))]
    guest: Annotated[Guest | M, Option("thread",
        help=(
        "Who runs the driver. ``thread``: a thread of compiled code. ``kvm``: the same code inside "
        "a KVM virtual processor of this process, behind page tables of its own. ``linux``: "
        "Linux's own, unmodified driver in User-Mode Linux, an ordinary process, at balloonlab's "
        "device over vhost-user."))]
    host: Annotated[Host | M, Option("lab", help=(
        "Whose device it is. That of balloonlab (``lab``) or of an unmodified "
        "``qemu-system-x86_64``, 6.0 or later (``qemu``)."))]
    backing: Annotated[str | M | None, Option(
        None, column="backing", choices=tuple(BACKINGS), help=(
        "What the host has behind guest RAM. ``anonymous``: private anonymous memory. "
        "``memfd``: a shared file in memory, which vhost-user needs, and a Linux guest has. "
        "``hugetlb``: the same of huge pages that the kernel keeps apart (root reserves them); a "
        "page of 2 MiB is discarded when all of it is in the balloon. ``file``: a private mapping "
        "of a file, as a restored snapshot is. By default the first that the guest can have."))]
    verb: Annotated[str | M | None, Option(None, column="verb", choices=tuple(VERBS), help=(
        "The call that takes memory away: ``dontneed``, ``free`` and ``remove`` are advices of "
        "``madvise``, ``punch`` makes a hole in the file, ``map`` maps anonymous memory over it. "
        "By default what frees it: ``dontneed`` of private memory, ``remove`` of shared files. "
        "What a call really does to what it is made on is checked after every repeat "
        "(`balloonlab.frees`)."))]
    protocol: Annotated[str | M | None, Option(None, column="protocol", help=(
        "How pages are sent: ``pfn``, ``bitmap-v4`` (default), another of "
        "`balloonlab.wire.formats`, or ``madvise``; in QEMU ``pfn`` or ``reporting``, of Linux "
        "``hinting``, too. "
        "``madvise`` is no message, one call over as many bytes, the floor. "
        "In QEMU ``pfn``, the default there, or ``reporting``: up to 32 free blocks per kick, "
        "a descriptor each (free page reporting, virtio 1.x section 5.5.6.7). It has no "
        "deflation. The pattern's pages are free in the guest's allocator (``aged``: all that "
        "are), merged as far as they adjoin; whole blocks are reported up to the balloon's "
        "size, and ``n_pages`` and ``balloon_bytes`` count what was reported. "
        "Linux's own driver speaks ``pfn``, ``hinting`` (free page hinting, section 5.5.6.6: all "
        "free blocks of 4 MiB that the kernel has, asked for by the host) and ``reporting`` (the "
        "same by itself, after 2 s). The rest of its memory is filled first, so that what is free "
        "is about the balloon; ``n_pages`` and ``balloon_bytes`` count what came."))]
    discard: Annotated[str | M | None, Option(
        None, column="discard", choices=(*DISCARDS, "single"), help=(
        "How the host applies a message. By default as the protocol's hosts do: ``page`` for "
        "``pfn``, ``single`` for ``madvise``, else ``range``. QEMU does nothing else. ``page``: a "
        "call per page. ``range``: pages that follow each other in a message, up or down, make one "
        "call. ``sorted``: a message's pages are sorted, and all that adjoin make one. ``vector`` "
        "and ``sorted-vector``: as these two, many ranges in one ``process_madvise`` (Linux 6.13). "
        "The call is that of ``verb``."))]
    vectors: Annotated[int | M | None, Option(
        None, least=1, most=MOST_VECTORS, column="vectors", help=(
        "Ranges in a vectored call, by default 256 for ``pfn``, a message's pages, else 1024. 0 "
        "stands in the frame where no call is vectored."))]
    threads: Annotated[int | M, Option(1, least=1, most=MOST_THREADS, column="threads", help=(
        "Threads that discard a message together."))]
    collect: Annotated[int | M, Option(1, least=1, most=MOST_COLLECTED, column="collect", help=(
        "Messages that the host answers before it discards them together. Earlier where no kick "
        "comes for a millisecond, and before a deflation is answered: no page is to be used again "
        "before it was told (MUST_TELL_HOST)."))]
    pattern: Annotated[Pattern | M, Option("idle", column="pattern", help=(
        "Which pages: ``idle``, ``random``, ``huge``, ``aged``, ``every:8``, ``geometric:1.5`` or "
        "``trace:NAME``. A spelling that `balloonlab.patterns.make` takes, or an array of "
        "page numbers, which stands in the frame as ``custom:`` and its digest. What is drawn "
        "is drawn with ``rng=0``: the same arguments give the same pages everywhere. A Linux "
        "guest has an allocator of its own: its pattern is a state that it is brought into, "
        "``idle``, ``tmpfs50`` and so on (`balloonlab.linux.STATES`)."))]
    order: Annotated[Literal["as is", "ascending", "descending", "shuffled"] | M, Option(
        "as is", column="order", help=(
        "In which order the allocator hands the pages out. ``as is`` is the pattern's own, or "
        "the array's. ``idle`` and ``aged`` then come from an allocator in that state, all "
        "else from a free list of exactly these pages. Shuffled with ``rng=0``."))]
    operation: Annotated[Literal["inflate", "deflate"] | M, Option(
        "inflate", column="operation", help=(
        "What is timed. A deflation empties a full balloon, newest pages first: they are "
        "announced with ``MADV_WILLNEED`` and released to the allocator (stage ``release`` "
        "in the place of ``allocate``)."))]
    touched: Annotated[bool | M, Option(True, column="touched",
        help="Whether the host backs all of the guest's RAM beforehand.",
        flags="--touched/--untouched")]
    thp: Annotated[bool | M, Option(False, column="thp", flags="--thp/--no-thp",
        help="Whether the host may use transparent huge pages for the guest's RAM.")]
    wait: Annotated[Literal["block", "busy"] | M, Option("block", column="wait", help=(
        "Whether the driver sleeps or polls until the host has answered. A driver that polls "
        "saves wake-ups but stays on its processor, which every ``madvise`` must then interrupt "
        "to flush its TLB: discarding touched memory per page took seven times as long."))]
    allocation: Annotated[Literal["page", "chunk"] | M, Option("page", column="allocation", help=(
        "What the guest takes from its allocator: single pages, or chunks of them. ``page`` is as "
        "Linux does. ``chunk``: the largest blocks that there are, each sent as one record of "
        "``bitmap-v4``, no page list and no bitmap between. The pattern's pages are free in the "
        "largest blocks that they make, then, as an allocator merges them; where ``order`` asks "
        "for one, they are single pages in that order."))]
    kick_pages: Annotated[int | M, Option(
        PFNS_PER_BUFFER, least=LEAST_KICK_PAGES, most=MOST_KICK_PAGES, column="kick_pages", help=(
        "Page numbers per kick under ``pfn``. Linux sends 256."))]
    in_flight: Annotated[int | M, Option(1, least=1, most=MOST_IN_FLIGHT, column="in_flight", help=(
        "Messages that may be on the queue at a time. With several, the guest takes and packs the "
        "next one while the host discards the last. It waits when all are in use, and at the end. "
        "Linux has one."))]
    steps: Annotated[int | M, Option(1, least=1, column="steps",
        help="In how many equal steps the balloon gets to its size. Times and counts are sums.")]
    bitmaps: Annotated[int | M, Option(
        32, least=0, most=32, column="bitmaps", skipped_only=True, help=(
        "Bitmaps of 32 KiB that the guest has memory for, each for 1 GiB of page numbers. A "
        "driver short of them works in smaller windows; without a single one it falls back "
        "to ``pfn``. The frame's ``negotiated_protocol`` and ``n_bitmaps`` say what was used."))]
    block_order: Annotated[int | M, Option(9, least=0, most=10, help=(
        "Order of the blocks under ``reporting``: ``2**block_order`` pages. Linux reports "
        "those of 9 and up (``pageblock_order``). The checks have it."))]
    linux: Annotated[str | None, Option(None, listed=False, help=(
        "Path of User-Mode Linux, for ``guest=\"linux\"``. By default ``linux.uml`` on the "
        "search path (Debian: ``apt install user-mode-linux``)."))]
    modules: Annotated[str | None, Option(None, listed=False, help=(
        "Folder of its modules, ``lib/modules/RELEASE``. By default ``/usr/lib/uml/modules``."))]
    repeats: Annotated[int | M, Option(5, least=1, listed=False,
        help="Measured repeats of each case, after a warm-up.")]
# fmt: on


def _option(name: str, hint: Any) -> Option:
    kind, option = get_args(hint)
    parts = [part for part in get_args(kind) if part is not M] or [kind]
    words = next((get_args(part) for part in parts if typing.get_origin(part) is Literal), ())
    numeric = [part for part in (bool, int) if part in parts and str not in parts]
    hint = Any if kind == Pattern | M else Union[tuple(parts)]  # noqa: UP007
    one = numeric[0] if numeric else str
    return replace(option, name=name, kind=one, choices=words or option.choices, hint=hint)


HINTS = typing.get_type_hints(Options, include_extras=True)
TABLE = {name: _option(name, hint) for name, hint in HINTS.items()}


def check_choice(
    name: str, value: Any, choices: Iterable[str], where: str = "", hint: str = ""
) -> None:
    """Check an argument that is one of several words; a slip gets the nearest one (ValueError)."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = hint or (f"; did you mean {near[0]!r}?" if near else "")
        raise ValueError(f"{name} must be one of {', '.join(choices)}{where}, got {value!r}{hint}")


def names_of(name: str, given: Iterable[str], choices: Iterable[str]) -> list[Any]:
    """Return an argument of several words, or of one, as a list; each is checked (ValueError)."""
    names = [given] if isinstance(given, str) else list(given)
    choices = tuple(choices)
    if not names:
        raise ValueError(f"{name} must have at least one of {', '.join(choices)}")
    for one in names:
        check_choice(name, one, choices)
    return names


def check_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Check an argument that counts something (ValueError)."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}")


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are no option's (TypeError)."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise TypeError(f"unknown argument {name}: {guess}a case takes {', '.join(known)}")


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return one value for each option: what is given, checked by itself, or the default.

    Sizes, patterns and protocols are left to `balloonlab.measurement.setups.make_case`.
    """
    check_known(given, TABLE)
    values = {name: given.get(name, row.default) for name, row in TABLE.items()}
    for name, row in TABLE.items():
        value = values[name]
        if value is None and row.default is None:
            continue
        if row.choices:
            check_choice(name, value, row.choices)
        elif row.kind is bool:
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {value!r}")
            values[name] = bool(value)
        elif row.kind is int and row.least is not None:
            check_number(name, value, row.least, row.most)
            values[name] = int(value)
    return values


def balloon_pages(balloon: Size | float, memory_pages: int) -> int:
    """Return the pages of a balloon that is given as a size or as a share of memory."""
    if isinstance(balloon, float | np.floating):
        if not 0 < balloon < 1:
            rule = "balloon must be above 0 and below 1 as a share of memory"
            raise ValueError(f"{rule}, got {balloon!r}")
        return int(memory_pages * balloon)
    return parse_pages(balloon, "balloon")


_KINDS = dict.fromkeys(("memory", "balloon"), Parameter.POSITIONAL_OR_KEYWORD)
_TYPES = {"memory": "int or str", "balloon": "int, str or float", "pattern": "str or array-like"}


def takes_options(lists: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function that takes ``**options`` their signature, and their part of its docstring.

    With `lists` each option may also be a list of values.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        bare = signature(function)
        own = [p for p in bare.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters = [_parameter(row, lists and row.listed) for row in TABLE.values()]
        whole = bare.replace(parameters=[*parameters, *own])

        @wraps(function)
        def taking(*args: P.args, **kwargs: P.kwargs) -> R:
            check_known(kwargs, whole.parameters)
            return function(**whole.bind(*args, **kwargs).arguments)  # type: ignore[call-arg]

        taking.__signature__ = whole  # type: ignore[attr-defined]
        if taking.__doc__:
            taking.__doc__ = cleandoc(taking.__doc__).replace("{options}", _documented(lists))
        return taking

    return decorate


def _parameter(row: Option, listed: bool) -> Parameter:
    kind = _KINDS.get(row.name, Parameter.KEYWORD_ONLY)
    hint = row.hint | list[row.hint] if listed else row.hint  # type: ignore[name-defined]
    return Parameter(row.name, kind, default=row.default, annotation=hint)


def _documented(lists: bool) -> str:
    """Return the options as numpydoc has them."""
    entries = []
    for name, row in TABLE.items():
        words = "{" + ", ".join(map(repr, row.choices)) + "}"
        one = words if row.choices else _TYPES.get(name, row.kind.__name__)
        kind = one + (", or a list of them" if lists and row.listed else "")
        kind += ", optional" if row.default is None else f", default {row.default!r}"
        limits = "" if row.most is None else f" From {row.least} to {row.most}."
        entries.append(f"{name} : {kind}\n{indent(fill(row.help + limits, 90), '    ')}")
    return "\n".join(entries)
