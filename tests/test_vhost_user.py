"""The device as a vhost-user back-end, at a front-end of our own: messages, memory, queues."""

import os
import socket
import tempfile
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import wire
from balloonlab.guest import BalloonDriver
from balloonlab.host import Policy
from balloonlab.host.backend import DONE, FIRST_COMMAND, HINTING, REPORTING, STOP, Backend
from balloonlab.host.shared import SharedRam
from balloonlab.kernels import blocks, device, doorbell, faults, vring
from balloonlab.kernels.translate import Memory
from balloonlab.pages import Buddy
from balloonlab.queue import vhost_user
from balloonlab.queue.vhost_user import PAIR, U64, Region, Request, VhostUserError
from balloonlab.selftest import hostile_front_end
from balloonlab.selftest.front_end import USER_ADDRESS, FrontEnd, Said
from balloonlab.sizes import PAGE_BYTES
from balloonlab.wire import Feature

from . import naive
from .kicks import kick_and_wait

PAGES = 512
CELL = np.zeros(2, np.int64)


class Session:
    """A back-end and a front-end of 512 pages, their pages written."""

    def __init__(self, folder, discard="page", extra=None, offset=0):
        extra = extra or Feature(0)
        names = ["inflate", "deflate"]
        names += [HINTING] if Feature.FREE_PAGE_HINT in extra else []
        names += [REPORTING] if Feature.REPORTING in extra else []
        self.back = Backend(folder / "socket", Policy(discard), 9999, 9999, extra)
        self.front = FrontEnd(folder / "socket", PAGES, tuple(names), offset)
        self.front.ram[: PAGES * PAGE_BYTES] = 7

    def negotiate(self):
        self.front.negotiate(Feature.MUST_TELL_HOST | self.back.offered)
        self.back.wait_for_driver(10)

    def driver(self):
        """Return balloonlab's own driver, over vhost-user."""
        driver = BalloonDriver(
            self.front, Buddy.holding(PAGES, np.arange(PAGES), "pages"), wire.get("pfn"), 999
        )
        self.back.wait_for_driver(10)
        return driver

    def kick(self, name):
        queue = self.front.queues[name]
        return kick_and_wait(queue, CELL)

    def gone(self):
        return np.flatnonzero(~self.back.ram.resident()[:PAGES]).tolist()

    def refused(self):
        """Wait until the back-end has ended the session; return why."""
        with pytest.raises(VhostUserError) as caught:
            self.back.wait_for_silence(5)
        return str(caught.value)

    def close(self):
        self.front.close()
        self.back.close()


@pytest.fixture
def session(tmp_path):
    made = []

    def make(**options):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        made.append(Session(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("discard", ["page", "range"])
@pytest.mark.parametrize("offset", [0, 5 * PAGE_BYTES])
def test_the_labs_driver_inflates_and_deflates_over_vhost_user(session, discard, offset):
    s = session(discard=discard, offset=offset)
    driver = s.driver()
    before, emptied = s.back.ram.held_bytes(), set()
    for target in (300, 1, 511, 257, 0):
        driver.set_target(target)
        assert driver.pages.size == target
        emptied |= set(driver.pages.tolist())
        assert set(s.gone()) == emptied  # nobody writes into what came back
    assert before - s.back.ram.held_bytes() == len(emptied) * PAGE_BYTES
    for name in ("inflate", "deflate"):
        assert s.back.devices[name].faults() == {}
        assert s.back.devices[name].n_sent == 300 + 510
        assert s.back.devices[name].n_discard_errors == 0


def test_holes_are_made_and_nothing_else_changes(session):
    s = session()
    s.negotiate()
    pfns = np.array([3, 500, 4], np.uint32)
    s.front.own_memory[32768 : 32768 + 12] = pfns.view(np.uint8)
    vring.describe(s.front.queues["inflate"].ring, 0, s.front.own_gpa + 32768, 12, 0)
    vring.offer(s.front.queues["inflate"].ring)
    before = s.back.ram.held_bytes()
    assert s.kick("inflate") == doorbell.USED
    assert s.gone() == [3, 4, 500]
    assert before - s.back.ram.held_bytes() == 3 * PAGE_BYTES
    kept = np.delete(s.front.ram[: PAGES * PAGE_BYTES].reshape(PAGES, -1), [3, 4, 500], axis=0)
    assert (kept == 7).all()
    assert s.back.devices["inflate"].sent()[:, :2].tolist() == [[pfn, 1] for pfn in pfns.tolist()]


def test_only_what_is_offered_can_be_accepted(session):
    s = session(extra=Feature.REPORTING)
    offered = U64.unpack(s.front.ask(Said(Request.GET_FEATURES)))[0]
    assert Feature(offered) == Feature.REPORTING | Feature.MUST_TELL_HOST | (
        Feature.VERSION_1 | Feature.VHOST_USER
    )
    s.front.say(Said(Request.SET_FEATURES, U64.pack(offered | Feature.DEFLATE_ON_OOM)))
    assert "features must be of those offered" in s.refused()


def test_the_configuration_is_read_written_and_its_changes_are_announced(session):
    s = session()
    s.negotiate()
    s.back.set_target(77)
    assert s.front.changes.recv(99) == vhost_user.HEADER.pack(2, 1, 0)
    head = vhost_user.CONFIG_HEAD.pack(0, 8, 0)
    answer = s.front.ask(Said(Request.GET_CONFIG, head + bytes(8)))
    assert answer == head + np.array([77, 0], "<u4").tobytes()
    # Of what a driver writes only `actual` counts.
    data = np.array([5, 66], "<u4").tobytes()
    s.front.say(Said(Request.SET_CONFIG, head + data))
    s.back.wait_for_actual(66, 5)
    assert s.front.ask(Said(Request.GET_CONFIG, head + bytes(8)))[12:16] == b"M\0\0\0"
    s.front.say(Said(Request.GET_CONFIG, vhost_user.CONFIG_HEAD.pack(12, 8, 0) + bytes(8)))
    assert "asked for 8 at 12" in s.refused()


def test_hints_are_discarded_and_their_commands_kept(session):
    s = session(discard="range", extra=Feature.FREE_PAGE_HINT)
    s.negotiate()
    s.back.hint(FIRST_COMMAND)
    s.front.offer_blocks(HINTING, [(0, 64), (128, 64)], FIRST_COMMAND)
    assert s.kick(HINTING) == doorbell.USED
    hinting = s.back.devices[HINTING]
    assert hinting.command == FIRST_COMMAND
    s.front.offer_blocks(HINTING, [], STOP)
    assert s.kick(HINTING) == doorbell.USED
    s.back.wait_for_hints(5)
    s.back.hint(DONE)
    assert s.gone() == [*range(64), *range(128, 192)]
    assert hinting.sent()[:, :2].tolist() == [[0, 64], [128, 64]]


def test_a_block_is_the_guests_again_once_it_was_reported(session):
    s = session(discard="range", extra=Feature.REPORTING)
    s.negotiate()
    s.front.offer_blocks(REPORTING, [(0, 32)])
    with pytest.raises(TimeoutError, match=r"did nothing for 0\.1 s"):
        s.back.wait_for_actual(1, 0.1)
    assert s.gone() == []  # nobody serves it before
    s.back.start_reporting()
    assert s.kick(REPORTING) == doorbell.USED
    assert s.gone() == list(range(32))
    s.front.ram[: 32 * PAGE_BYTES] = 1
    s.front.offer_blocks(REPORTING, [(0, 32), (16, 32)])  # the second one repeats half of it
    assert s.kick(REPORTING) == doorbell.USED
    assert s.gone() == list(range(48))
    assert s.back.devices[REPORTING].faults() == {faults.DESCRIPTIONS[faults.REPEATED]: 1}
    s.front.offer_blocks(REPORTING, [(n, 1) for n in range(100, 132)])
    assert s.kick(REPORTING) == doorbell.USED
    assert s.back.devices[REPORTING].n_sent == 35


def test_a_rehearsal_does_all_but_discard(session):
    s = session(discard="range", extra=Feature.REPORTING)
    s.negotiate()
    s.back.start_reporting()
    s.back.devices[REPORTING].rehearse(True)
    s.front.offer_blocks(REPORTING, [(0, 32)])
    assert s.kick(REPORTING) == doorbell.USED
    assert s.gone() == []
    assert s.back.devices[REPORTING].n_discards == 0
    assert s.back.devices[REPORTING].n_translations == 1


def test_vring_messages_may_come_in_any_order(session):
    for order in list(permutations(range(6)))[::91]:
        s = session()
        for said in s.front.beginning(Feature.VERSION_1):
            s.front.say(said)
        for name in ("inflate", "deflate"):
            said = s.front.vring(name)
            for i in order:
                s.front.say(said[i])
        s.back.wait_for_driver(10)


def test_a_stopped_vring_starts_again(session):
    s = session()
    s.negotiate()
    vring.describe(s.front.queues["deflate"].ring, 0, s.front.own_gpa + 32768, 4, 0)
    vring.offer(s.front.queues["deflate"].ring)
    assert s.kick("deflate") == doorbell.USED
    base = s.front.ask(Said(Request.GET_VRING_BASE, PAIR.pack(1, 0)))
    assert PAIR.unpack(base) == (1, 1)
    s.front.queues["deflate"].ring.avail[vring.INDEX] = 0
    s.front.queues["deflate"].ring.used[vring.INDEX] = 0
    for said in s.front.vring("deflate"):
        s.front.say(said)
    s.front.ask(Said(Request.GET_FEATURES))  # all before it is done
    s.front.queues["deflate"].ring.taken[0] = 0
    vring.offer(s.front.queues["deflate"].ring)
    assert s.kick("deflate") == doorbell.USED


def test_a_front_end_that_eats_its_own_kicks_holds_nobody(session):
    s = session()
    s.negotiate()
    kick = s.front.queues["inflate"].doorbell.kick
    for _ in range(100):
        os.eventfd_write(kick, 1)
        os.eventfd_read(kick)
    # The fixture's close() must return.


def test_a_call_that_nobody_reads_holds_nobody(session):
    s = session()
    for said in s.front.beginning(Feature.VERSION_1):
        s.front.say(said)
    source, call = os.pipe()
    for said in s.front.vring("inflate"):
        is_call = said.request == Request.SET_VRING_CALL
        s.front.say(said._replace(fds=(call,)) if is_call else said)
    s.front.ask(Said(Request.GET_FEATURES))
    queue = s.front.queues["inflate"]
    vring.describe(queue.ring, 0, s.front.own_gpa + 32768, 4, 0)
    queue.ring.avail[vring.FLAGS] = 0
    for n in range(1, 9001):  # 72,000 bytes: more than a pipe holds
        vring.offer(queue.ring)
        os.eventfd_write(queue.doorbell.kick, 1)
        while queue.ring.used[vring.INDEX] != n & 0xFFFF:
            pass
    os.close(source)
    os.close(call)


@pytest.mark.parametrize("kind", ["pipe", "socket", "eventfd"])
def test_a_driver_that_has_its_call_block_does_not_hold_the_end(session, kind):
    s = session()
    for said in s.front.beginning(Feature.VERSION_1):
        s.front.say(said)
    if kind == "eventfd":
        source = call = os.eventfd(0)
    else:
        pair = os.pipe() if kind == "pipe" else [one.detach() for one in socket.socketpair()]
        source, call = pair
    for said in s.front.vring("inflate"):
        is_call = said.request == Request.SET_VRING_CALL
        s.front.say(said._replace(fds=(call,)) if is_call else said)
    s.front.ask(Said(Request.GET_FEATURES))
    os.set_blocking(call, True)
    if kind == "eventfd":
        os.eventfd_write(call, (1 << 64) - 2)  # full
    queue = s.front.queues["inflate"]
    vring.describe(queue.ring, 0, s.front.own_gpa + 32768, 4, 0)
    queue.ring.avail[vring.FLAGS] = 0
    for _ in range(20_000):  # until the device is held, or has answered them all
        vring.offer(queue.ring)
        os.eventfd_write(queue.doorbell.kick, 1)
        for _ in range(2000):
            if queue.ring.used[vring.INDEX] == queue.ring.avail[vring.INDEX]:
                break
        else:
            break
    s.back.close()
    for fd in {source, call}:
        os.close(fd)


def test_a_memory_table_may_come_last(session):
    s = session()
    *before, table = s.front.beginning(Feature.VERSION_1)
    for said in [*before, *s.front.vring("inflate"), *s.front.vring("deflate"), table]:
        s.front.say(said)
    s.back.wait_for_driver(10)
    s.front.say(Said(Request.SET_VRING_ENABLE, PAIR.pack(0, 0)))
    assert "cannot be disabled" in s.refused()


def good(n_bytes=4 * PAGE_BYTES):
    return Region(0, n_bytes, USER_ADDRESS, 0)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([good(5 * PAGE_BYTES)], "must lie in its file, got 20480 bytes at offset 0x0 of 16384"),
        ([good()._replace(offset=PAGE_BYTES)], "must lie in its file"),
        ([good(0)], "must be whole pages, got 0 bytes"),
        ([good(100)], "must be whole pages"),
        ([good()._replace(gpa=17)], "must be whole pages"),
        ([good()._replace(gpa=(1 << 64) - 4096)], "must end below"),
        ([good()._replace(user_address=(1 << 64) - 4096)], "must end below"),
        ([good(), good()._replace(user_address=0)], "must not overlap, got gpa 0x0 twice"),
        ([good(), good()._replace(gpa=1 << 30)], "must not overlap, got user address"),
    ],
)
def test_a_memory_table_that_lies_is_refused(tmp_path, regions, message):
    with (tmp_path / "ram").open("w+b") as file:
        file.truncate(4 * PAGE_BYTES)
        with pytest.raises(VhostUserError, match=message):
            SharedRam(regions, [file.fileno()] * len(regions))


def test_memory_that_is_no_file_is_refused():
    source, other = os.pipe()
    with pytest.raises(VhostUserError, match="must be a regular file"):
        SharedRam([good()], [source])
    os.close(source)
    os.close(other)


def test_two_regions_lie_side_by_side(tmp_path):
    with (tmp_path / "ram").open("w+b") as file:
        file.truncate(4 * PAGE_BYTES)
        halves = [
            Region(1 << 30, 2 * PAGE_BYTES, USER_ADDRESS, 2 * PAGE_BYTES),
            Region(0, 2 * PAGE_BYTES, 1 << 40, 0),
        ]
        ram = SharedRam(halves, [file.fileno()] * 2)
        ram.memory.ram[:] = np.arange(4).repeat(PAGE_BYTES)
        assert np.fromfile(tmp_path / "ram", np.uint8)[::PAGE_BYTES].tolist() == [2, 3, 0, 1]
        assert ram.page_index(np.array([0, 1, 2, 1 << 18])).tolist() == [2, 3, -1, 0]
        assert ram.at((1 << 40) + PAGE_BYTES, 8).tolist() == [3] * 8
        with pytest.raises(VhostUserError, match="must lie in one region"):
            ram.at((1 << 40) + PAGE_BYTES, PAGE_BYTES + 1)
        assert ram.held_bytes() == 4 * PAGE_BYTES
        ram.close()


@given(
    pairs=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=9),
    aligned=st.booleans(),
)
def test_blocks_are_decoded_as_the_twin_does(pairs, aligned):
    pairs = [(a & ~4095, b & ~4095) for a, b in pairs] if aligned else pairs
    words = np.array(pairs or [(0, 0)], np.uint64).ravel()
    ranges, found = np.zeros((9, 2), np.int64), np.zeros(1, faults.FAULTS)
    n = blocks.decode_blocks(words, 16 * len(pairs), ranges, found)
    expected, bad = naive.decode_blocks(pairs)
    assert ranges[:n].tolist() == expected
    assert [row[2] for row in faults.logged(found).tolist()] == bad


@given(
    chain=st.lists(
        st.tuples(st.integers(0, 40 * 4096), st.integers(0, 9), st.sampled_from([0, 2, 4])),
        min_size=1,
        max_size=6,
    )
)
def test_descriptors_are_fetched_as_the_twin_does(chain):
    ram = np.arange(32 * 4096, dtype=np.uint32).view(np.uint8)[: 32 * 4096].copy()
    memory = Memory(ram, 0, np.array([(0, 32, 0, 1)], np.int64))
    ring = vring.Ring(
        np.zeros(8, vring.DESCRIPTOR), np.zeros(11, np.uint16), np.zeros(2, np.uint16),
        np.zeros(8, vring.USED_ENTRY), np.zeros(2, np.int64), np.zeros(1, np.int64),
    )  # fmt: skip
    for i, (gpa, n_bytes, flags) in enumerate(chain):
        follows = vring.DESC_NEXT if i + 1 < len(chain) else 0
        vring.describe(ring, i, gpa, n_bytes, flags | follows)
    words, state = np.zeros(8, np.uint64), np.zeros(1, device.STATE)
    state["command"] = -1
    got = vring.fetch_blocks(ring, memory, 0, words, state[0])
    expected, command = naive.fetch_blocks(chain, ram, room=4)
    assert (got >= 0) == (expected is not None)
    if expected is not None:
        assert words[: got // 8].reshape(-1, 2).tolist() == [list(pair) for pair in expected]
        assert state["command"][0] == command


@given(
    bits=st.integers(0, 2**256 - 1),
    extents=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 56)), max_size=4),
)
def test_blocks_leave_no_balloon_behind(bits, extents):
    balloon = np.frombuffer(bits.to_bytes(32, "little"), np.uint64).copy()
    pages = {page for first, n in extents for page in range(first, first + n)}
    rows = np.array(extents or np.zeros((0, 2)), np.int64).reshape(-1, 2) * PAGE_BYTES
    device._forget(balloon, rows)
    left = int.from_bytes(balloon.tobytes(), "little")
    assert left == sum(1 << p for p in range(256) if bits >> p & 1 and p not in pages)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (vhost_user.HEADER.pack(99, 1, 0), "request 99 is none"),
        (vhost_user.HEADER.pack(2, 1, 7), "SET_FEATURES must have 8 to 8 bytes, got 7"),
        (vhost_user.HEADER.pack(5, 1, 1 << 31), "SET_MEM_TABLE must have 8 to 264 bytes"),
        (vhost_user.HEADER.pack(1, 2, 0), "version 1, got flags 0x2"),
        (vhost_user.HEADER.pack(1, 5, 0), "version 1, got flags 0x5"),
        (vhost_user.HEADER.pack(2, 1, 8) + b"abc", "vanished"),
        (b"abc", "vanished"),
        (b"", "the front-end has ended"),
    ],
)
def test_a_message_that_breaks_a_rule_ends_the_session_with_a_reason(session, data, message):
    s = session()
    s.front.socket.sendall(data)
    s.front.socket.shutdown(socket.SHUT_WR)
    assert message in s.refused()
    with pytest.raises(VhostUserError, match="no driver has set up a channel"):
        s.back.set_target(1)


@pytest.mark.once
def test_hostile_front_ends_neither_hang_nor_harm(capfd):
    found = hostile_front_end.play(300, seed=5)
    assert found["sessions"] == 300
    assert found["sessions that a broken rule ended"] > 100
    for name in hostile_front_end.MUST_BE_ZERO:
        assert found[name] == 0, name


@pytest.mark.once
@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        ("raises", hostile_front_end.ERRORS),
        ("leaks", hostile_front_end.LEAKED),
        ("writes", hostile_front_end.CHANGED),
    ],
)
def test_the_judge_of_front_ends_notices_what_a_back_end_does_wrong(monkeypatch, spoil, finding):
    class Wrong(Backend):
        def _carry_out(self, message):
            super()._carry_out(message)
            if message.request == Request.SET_MEM_TABLE and spoil == "raises":
                raise KeyError("unexpected")
            if message.request == Request.SET_MEM_TABLE and spoil == "leaks":
                leaked.append(os.dup(message.fds[0]))
            if message.request == Request.SET_MEM_TABLE and spoil == "writes":
                os.pwrite(message.fds[0], b"x", 0)

    monkeypatch.setattr(hostile_front_end, "SETTLE_S", 0.5)
    leaked = []
    found = hostile_front_end.play(
        9, seed=1, make=lambda path: Wrong(path, Policy("range"), 99, 99, hostile_front_end.EXTRA)
    )
    assert found[finding] > 0
    for fd in leaked:
        os.close(fd)


@pytest.mark.once
def test_the_judge_of_front_ends_notices_a_hang(monkeypatch):
    monkeypatch.setattr(hostile_front_end, "DEADLINE_S", 0.2)
    done = []

    class Hangs(Backend):
        def wait_for_silence(self, quiet_s):
            while not done:
                time.sleep(0.01)

    found = hostile_front_end.play(
        1, seed=2, make=lambda path: Hangs(path, Policy("range"), 99, 99, hostile_front_end.EXTRA)
    )
    done.append(True)
    assert found[hostile_front_end.HUNG] == 1
