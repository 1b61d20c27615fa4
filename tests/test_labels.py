"""Stage labels are pinned to their work: each kernel gets a clock that only its work moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloonlab import wire
from balloonlab.host import Policy
from balloonlab.host.device import make_state, no_balloon
from balloonlab.kernels import chunks, clock, device, driver, sending, vring
from balloonlab.kernels.clock import ROUND_TRIP
from balloonlab.kernels.doorbell import USED, Eventfds, Queue
from balloonlab.kernels.formats import Encoding
from balloonlab.kernels.plain import load_acquire
from balloonlab.kernels.translate import Memory
from balloonlab.measurement.stages import stage_times
from balloonlab.pages import Buddy
from balloonlab.queue import QUEUE_BYTES, build_ring
from balloonlab.wire.format import make_encoder

from . import naive


class Clock:
    """Time that passes in work alone, so much for each kind."""

    def __init__(self, monkeypatch, module, *others):
        self.now, self._patch, self._module = 0, monkeypatch, module
        monkeypatch.setattr(module, "now_ns", lambda cell: self.now)
        for one in (module, *others):
            monkeypatch.setattr(one, "record", self._record)

    def _record(self, log, stage, begin_ns):
        log.rows[log.length[0]] = (stage, begin_ns, self.now)
        log.length[0] += 1
        return self.now

    def slow(self, name, ns, result=None, module=None):
        """Make a part of the module take so long; what it does stays, or `result` is returned."""
        module = module or self._module
        work = getattr(module, name)

        def part(*arguments):
            self.now += ns
            return work(*arguments) if result is None else result

        self._patch.setattr(module, name, part)

    def answer(self, module):
        """Make every message of a module's driver used after 3000 ns."""

        def await_used(encoder, queue, counters, log, clock):
            counters[0]["n_used"] = counters[0]["n_kicks"]
            self.now += 3000
            return self._record(log, ROUND_TRIP, clock)

        self._patch.setattr(sending, "now_ns", lambda cell: self.now)
        self._patch.setattr(sending, "await_used", await_used)
        self._patch.setattr(sending, "kick", lambda doorbell, ring, cell: USED)
        for name in ("start", "send", "drain"):
            self._patch.setattr(module, name, plain(getattr(sending, name)))


def spent(log):
    """Ns of each interval in a log, by its stage."""
    rows = log.rows[: log.length[0]]
    return {
        int(s): int(rows[rows[:, 0] == s, 2].sum() - rows[rows[:, 0] == s, 1].sum())
        for s in rows[:, 0]
    }


def plain(kernel):
    return getattr(kernel, "py_func", kernel)


def test_the_device_labels_decoding_translating_and_discarding(monkeypatch):
    time = Clock(monkeypatch, device)
    monkeypatch.setattr(device, "load_acquire", load_acquire)
    monkeypatch.setattr(device, "_is_to_stop", plain(device._is_to_stop))
    for name, ns in (("decode", 10), ("translate", 200)):
        time.slow(name, ns)
    monkeypatch.setattr(device, "flush", plain(device.flush))
    time.slow("apply", 3000, result=(3, 3, 0))  # madvise is slow
    memory = Memory(np.zeros(1, np.uint8), 0, np.array([(0, 64, 0, 1)], np.int64))
    state = make_state(wire.get("pfn"), Policy("page"), "inflate", no_balloon(64 * 4096))
    message = np.array([1, 2, 3], np.uint32)
    state.words.view(np.uint8)[:12] = message.view(np.uint8)
    ring, log = build_ring(np.zeros(QUEUE_BYTES, np.uint8)), clock.Log.empty(9)
    plain(device.handle)(state, ring, memory, 12, 0, log)
    assert spent(log) == {clock.DECODE: 10, clock.TRANSLATE: 200, clock.DISCARD: 3000}
    assert state.state[0]["n_discards"] == 3


@pytest.mark.parametrize("encoding", [Encoding.PFNS, Encoding.RECORDS])
@pytest.mark.parametrize("operation", ["inflate", "deflate"])
def test_the_driver_labels_allocating_packing_waiting_and_releasing(
    monkeypatch, encoding, operation
):
    time = Clock(monkeypatch, driver, sending)
    packing = "encode_batch" if encoding == Encoding.PFNS else "begin"
    for name, ns in (("take_blocks", 10), (packing, 200), ("free_blocks", 40_000)):
        time.slow(name, ns)
    time.answer(driver)
    for name in ("send_pages", "inflate", "deflate"):
        monkeypatch.setattr(driver, name, plain(getattr(driver, name)))
    queue = Queue(build_ring(np.zeros(QUEUE_BYTES, np.uint8)), Eventfds(-1, -1))
    counters, log = np.zeros(1, sending.COUNTERS), clock.Log.empty(99)
    encoder, buddy = make_encoder(encoding, 600), Buddy.idle(1024)
    pages, leaving = np.full(600, 1, np.uint64), np.full(600, 1, np.uint64)
    driver.inflate(buddy.blocks, pages, 0, encoder, queue, counters, log)
    first, done = clock.ALLOCATE, 10
    if operation == "deflate":
        log.clear()
        driver.deflate(buddy.blocks, pages, leaving, encoder, queue, counters, log)
        first, done = clock.RELEASE, 40_000
    batches = 3 if encoding == Encoding.PFNS else 1
    assert spent(log) == {
        first: batches * done,
        clock.PACK: batches * 200,
        clock.ROUND_TRIP: batches * 3000,
    }
    assert counters[0]["end_ns"] - counters[0]["begin_ns"] == batches * (done + 3200)


@pytest.mark.parametrize("operation", ["inflate", "deflate"])
def test_so_does_the_driver_that_takes_chunks(monkeypatch, operation):
    time = Clock(monkeypatch, chunks, sending)
    for name, ns in (("take_largest", 10), ("encode_heads", 200), ("free_newest", 40_000)):
        time.slow(name, ns)
    time.answer(chunks)
    for name in ("_send_heads", "inflate_chunks", "deflate_chunks"):
        monkeypatch.setattr(chunks, name, plain(getattr(chunks, name)))
    queue = Queue(build_ring(np.zeros(QUEUE_BYTES, np.uint8)), Eventfds(-1, -1))
    counters, log = np.zeros(1, sending.COUNTERS), clock.Log.empty(99)
    encoder, heads = make_encoder(Encoding.RECORDS, 0), np.full(9000, 1, np.uint64)
    buddy = Buddy.holding(18_000, np.arange(0, 18_000, 2))
    n = chunks.inflate_chunks(buddy.blocks, heads, 0, 9000, encoder, queue, counters, log)
    first, done = clock.ALLOCATE, 10
    if operation == "deflate":
        log.clear()
        chunks.deflate_chunks(buddy.blocks, heads, heads.copy(), encoder, queue, counters, log)
        first, done = clock.RELEASE, 40_000
    assert n == 9000
    assert spent(log) == {first: 3 * done, clock.PACK: 3 * 200, clock.ROUND_TRIP: 3 * 3000}
    assert counters[0]["end_ns"] - counters[0]["begin_ns"] == 3 * (done + 3200)


def written(*rows):
    log = clock.Log.empty(len(rows))
    log.rows[:], log.length[0] = np.reshape(rows, (-1, 3)), len(rows)
    return log


@pytest.mark.parametrize(
    ("operation", "kind", "stage"),
    [("inflate", clock.ALLOCATE, "allocate"), ("deflate", clock.RELEASE, "release")],
)
def test_a_log_by_hand_gives_each_stage_its_name(operation, kind, stage):
    guest = written((kind, 0, 7), (clock.PACK, 7, 20), (clock.ROUND_TRIP, 20, 1000))
    host = written((clock.DECODE, 100, 105), (clock.TRANSLATE, 105, 130), (clock.DISCARD, 130, 530))
    assert stage_times(operation, guest, host, 1010) == {
        (stage, "all"): 7,
        ("send", "pack"): 13,
        ("send", "notify"): 980 - 430,
        ("send", "decode"): 5,
        ("translate", "all"): 25,
        ("discard", "all"): 400,
        ("remainder", "all"): 10,
    }


@st.composite
def logs(draw):
    """Two logs of one operation, of which a host may work beside its guest and after its end."""

    def intervals(kinds, latest):
        bounds = sorted(draw(st.sets(st.integers(0, latest), max_size=12)))
        pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
        return [(draw(st.sampled_from(kinds)), *pair) for pair in pairs]

    guest = intervals([clock.ALLOCATE, clock.PACK, clock.ROUND_TRIP, clock.KICK, clock.WAIT], 40)
    return guest or [(clock.PACK, 0, 1)], intervals(
        [clock.DECODE, clock.TRANSLATE, clock.DISCARD], 60
    )


@given(logs())
def test_stages_sum_to_the_time_until_both_ends_are_done_whoever_works_when(pair):
    guest, host = pair
    begin, end = guest[0][1], guest[-1][2]
    times = stage_times("inflate", written(*guest), written(*host), end - begin)
    last = max([end, *(row[2] for row in host)])
    assert sum(times.values()) == last - begin
    by_ns = naive.stage_times(guest, host)
    assert {name: ns for name, ns in times.items() if ns} == by_ns


def test_an_answer_is_given_after_the_work_and_not_before(monkeypatch):
    """The used ring moves last: what the guest waits for includes the discard."""
    order = []
    for name in ("handle", "push_used", "call"):
        monkeypatch.setattr(device, name, lambda *a, name=name: order.append(name))
    monkeypatch.setattr(device, "_receive", lambda *a: 4)
    monkeypatch.setattr(device, "load_acquire", load_acquire)
    monkeypatch.setattr(device, "now_ns", lambda cell: 0)
    queue = Queue(build_ring(np.zeros(QUEUE_BYTES, np.uint8)), Eventfds(-1, -1))
    queue.ring.avail[vring.INDEX] = 1
    state = make_state(wire.get("pfn"), Policy("page"), "inflate", no_balloon(4096))
    assert plain(device.answer)(queue, None, state, 0, clock.Log.empty(1)) == 1
    assert order == ["handle", "push_used", "call"]
