"""Hostile front-ends: vhost-user sessions near the rules, and a judge of what the back-end did.

Each session is one that Linux's driver would have, with a few of its messages spoilt: cut, grown,
repeated, swapped, with other numbers or descriptors; then a kick with descriptors of any kind.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import active_count

import numpy as np

from ..host import Policy
from ..host.backend import Backend
from ..kernels import vring
from ..queue import Worker
from ..queue.vhost_user import HEADER, VhostUserError
from ..sizes import PAGE_BYTES
from ..wire import Feature
from .front_end import FrontEnd, Said

PAGES, CANARY_PAGES = 64, 4
QUEUES = ("inflate", "deflate", "hinting", "reporting")
EXTRA = Feature.FREE_PAGE_HINT | Feature.REPORTING

DEADLINE_S, SETTLE_S = 20.0, 10.0
"""After which a session of 5 ms counts as hung, and what is left after it as kept."""

CANARY = 0xC5

HUNG, ERRORS = "sessions that hung", "errors other than a reason"
LEAKED = "descriptors or threads left"
CHANGED = "canary pages outside the regions changed"
MUST_BE_ZERO = (HUNG, ERRORS, LEAKED, CHANGED)

Backends = Callable[[Path], Backend]


def make_backend(path: Path) -> Backend:
    """Return the back-end that is attacked."""
    return Backend(path, Policy("range"), 100, 100, EXTRA)


def play(n_sessions: int, seed: int, make: Backends = make_backend) -> dict[str, int]:
    """Play so many sessions against the back-ends that `make` returns; count what came of them."""
    found = Counter({"sessions": n_sessions, **dict.fromkeys(MUST_BE_ZERO, 0)})
    found["sessions that a broken rule ended"] = found["sessions that went on"] = 0
    with tempfile.TemporaryDirectory(prefix="balloonlab-") as folder:
        _session(random.Random(0), Path(folder), make_backend, 0)  # compiles, with no deadline
        for number in range(n_sessions):
            rng = random.Random(seed * 1_000_003 + number)
            session = partial(_session, rng, Path(folder), make, rng.randrange(4))
            worker = Worker(session, "hostile")
            before = _open_now()
            worker.start()
            if not worker.wait_for(DEADLINE_S):
                found[HUNG] += 1
                break  # its thread and its files stay
            try:
                found.update(worker.result())
            except Exception:
                found[ERRORS] += 1
            worker.join()
            found[LEAKED] += not _closed(before)
    return dict(found)


def _open_now() -> tuple[int, int]:
    """Count this process's descriptors and threads."""
    return len(os.listdir("/proc/self/fd")), active_count()


def _closed(before: tuple[int, int]) -> bool:
    """Return whether there are no more descriptors and threads than before, or soon will be."""
    end = time.monotonic() + SETTLE_S  # a machine with more to do may let a thread end late
    while time.monotonic() < end:
        if all(now <= then for now, then in zip(_open_now(), before, strict=True)):
            return True
        time.sleep(0.01)
    return False


def _session(rng: random.Random, folder: Path, make: Backends, n_spoilt: int) -> Counter[str]:
    """Play one session, with messages spoilt so many times; return what came of it."""
    found: Counter[str] = Counter()
    offset = CANARY_PAGES * PAGE_BYTES
    path = folder / "socket"
    with make(path) as back, FrontEnd(path, PAGES, QUEUES, offset) as front:
        front.whole[:] = CANARY
        said = front.beginning(Feature.VERSION_1 | EXTRA)
        said += [message for name in QUEUES for message in front.vring(name)]
        for _ in range(n_spoilt):
            _spoil(said, rng, front)
        with suppress(OSError):
            for message in said:
                _send(front, message, rng)
            if n_spoilt == 0 or rng.random() < 0.5:
                _kick(front, rng)
        try:
            back.wait_for_silence(0.02)
            found["sessions that went on"] += 1
        except VhostUserError:
            found["sessions that a broken rule ended"] += 1
        inside = np.ones(front.whole.size // PAGE_BYTES, bool)  # canaries are before and behind
        inside[:CANARY_PAGES] = inside[-CANARY_PAGES:] = False
        if back.ram is not None:
            for region in back.ram.regions:
                first = region.offset // PAGE_BYTES
                inside[first : first + region.n_bytes // PAGE_BYTES] = True
        pages = front.whole.reshape(-1, PAGE_BYTES)
        found[CHANGED] += int((pages[~inside] != CANARY).any(axis=1).sum())
    return found


def _spoil(said: list[Said], rng: random.Random, front: FrontEnd) -> None:
    """Spoil one of a session's messages."""
    i = rng.randrange(len(said))
    message, way = said[i], rng.randrange(8)
    if way == 0:
        del said[i]
    elif way == 1:
        said.insert(rng.randrange(len(said)), message)
    elif way == 2:
        j = rng.randrange(len(said))
        said[i], said[j] = said[j], message
    elif way == 3:
        said[i] = message._replace(request=rng.randrange(40))
    elif way == 4:
        said[i] = message._replace(flags=rng.randrange(16))
    elif way == 5:
        cut = rng.randrange(len(message.payload) + 9)
        said[i] = message._replace(payload=(message.payload + bytes(8))[:cut])
    elif way == 6:
        others = (front.file, front.socket.fileno(), front.changes.fileno())
        n = rng.choice([0, 1, 2, 9])
        said[i] = message._replace(fds=tuple(rng.choice(others) for _ in range(n)))
    else:
        said[i] = message._replace(payload=_other_number(message.payload, rng))


def _other_number(payload: bytes, rng: random.Random) -> bytes:
    """Put another number in the place of one of a payload's."""
    words = bytearray(payload)
    if len(words) >= 4:
        size = 8 if len(words) % 8 == 0 and rng.random() < 0.7 else 4
        at = rng.randrange(len(words) // size) * size
        old = int.from_bytes(words[at : at + size], "little")
        near = old + rng.choice([-PAGE_BYTES, -1, 1, 8, PAGE_BYTES, 1 << 20])
        new = rng.choice([0, 1, near, near, 1 << 63, (1 << 64) - PAGE_BYTES, rng.getrandbits(64)])
        words[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(words)


def _send(front: FrontEnd, message: Said, rng: random.Random) -> None:
    """Send a message; now and then vanish in its midst."""
    if rng.random() < 0.01:
        data = HEADER.pack(message.request, message.flags, len(message.payload)) + message.payload
        front.socket.sendall(data[: rng.randrange(len(data))])
        front.socket.shutdown(1)
        raise OSError("vanished")
    front.say(message)


def _kick(front: FrontEnd, rng: random.Random) -> None:
    """Write descriptors of any kind, and kick all queues."""
    for name in QUEUES:
        queue = front.queues[name]
        for i in range(4):
            gpa = rng.choice([0, front.own_gpa, rng.randrange(front.n_bytes), rng.getrandbits(64)])
            n_bytes = rng.choice([0, 4, 256, PAGE_BYTES, rng.getrandbits(32)])
            gpa = gpa & ~4095 if rng.random() < 0.5 else gpa
            queue.ring.desc[i]["addr"], queue.ring.desc[i]["len"] = gpa, n_bytes
            queue.ring.desc[i]["flags"] = rng.choice([0, 1, 2, 3, 4])
            queue.ring.desc[i]["next"] = rng.choice([i + 1, rng.getrandbits(16)])
        queue.ring.avail[vring.INDEX] = rng.choice([1, 1, 2, 300])
        front.kick(name)
