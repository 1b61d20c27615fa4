"""One encoder: what the driver puts on the queue is what `wire.encode` returns, byte for byte."""

import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from balloonlab import wire
from balloonlab.address_map import DRIVER_GPA, ram_ranges
from balloonlab.guest import OFFERED, BalloonDriver
from balloonlab.kernels import faults, vring
from balloonlab.kernels.bitmap_v4 import make_head, split_head
from balloonlab.kernels.encode import begin, next_message
from balloonlab.kernels.formats import Encoding, decode
from balloonlab.pages import Buddy
from balloonlab.queue import LocalTransport
from balloonlab.sizes import MIB
from balloonlab.wire.format import make_encoder

from . import naive
from .conftest import INTERPRETED
from .strategies import BITMAP, FAITHFUL, page_sets, strewn_pages

GIB = BITMAP  # in pages


class Listener:
    """A device in plain Python that keeps what each kick put on a queue."""

    def __init__(self, transport):
        self.own = transport.own_memory
        self.heard = {name: [] for name in transport.virtqueues}
        self._queues = transport.virtqueues
        self._threads = [
            threading.Thread(target=self._serve, args=(name,), daemon=True) for name in self._queues
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, name):
        queue, used = self._queues[name], 0
        while True:
            os.eventfd_read(int(queue.ends.doorbell.kick))
            if queue.ring.control[vring.STOP]:
                return
            while int(queue.ring.avail[vring.INDEX]) != used & 0xFFFF:
                self.heard[name].append(self._read(queue.ring, used))
                head = int(queue.ring.avail[vring.ENTRIES + used % 128])
                queue.ring.used_ring[used % 128] = (head, 0)
                used += 1
                queue.ring.used[vring.INDEX] = used & 0xFFFF
                queue.call()

    def _read(self, ring, used):
        """Bytes of the chain that the driver made available."""
        i, data = int(ring.avail[vring.ENTRIES + used % 128]), b""
        while True:
            gpa, n_bytes, flags, follows = (int(field) for field in ring.desc[i])
            data += self.own[gpa - DRIVER_GPA :][:n_bytes].tobytes()
            if not flags & vring.DESC_NEXT:
                return data
            i = follows

    def stop(self):
        for queue in self._queues.values():
            queue.stop()
        for thread in self._threads:
            thread.join()


def conversation(protocol, pages, memory_pages, bitmaps=32, kick_pages=256):
    """What a driver says while its balloon takes `pages` and gives them back."""
    buddy = Buddy.holding(memory_pages, np.array(pages, np.uint64))
    with LocalTransport(np.zeros(MIB, np.uint8), DRIVER_GPA, OFFERED, False) as transport:
        listener = Listener(transport)
        driver = BalloonDriver(transport, buddy, wire.get(protocol, kick_pages), 10_000, bitmaps)
        try:
            driver.set_target(len(pages))
            driver.set_target(0)
        finally:
            listener.stop()
    return listener.heard["inflate"], listener.heard["deflate"]


@pytest.mark.parametrize("protocol", FAITHFUL)
@settings(max_examples=50 if not INTERPRETED else 10)
@given(pages=st.one_of(page_sets(highest=3 * GIB - 1), strewn_pages()))
def test_the_drivers_bytes_are_those_of_encode(protocol, pages):
    pages = [page for page in pages if page < 3 * GIB]
    assume(pages)
    inflated, deflated = conversation(protocol, pages, 3 * GIB)
    assert inflated == wire.encode(pages, protocol)
    assert deflated == wire.encode(pages[::-1], protocol)


KICK_PAGES = st.sampled_from([64, 100, 255, 256, 4096, 65_536])


@settings(max_examples=50 if not INTERPRETED else 10)
@given(pages=page_sets(highest=3 * GIB - 1), kick_pages=KICK_PAGES)
def test_a_kick_has_as_many_page_numbers_as_asked_for(pages, kick_pages):
    pages = [page for page in pages if page < 3 * GIB]
    assume(pages)
    inflated, deflated = conversation("pfn", pages, 3 * GIB, kick_pages=kick_pages)
    expected = naive.encode_pfn(pages, kick_pages)
    assert inflated == wire.encode(pages, "pfn", kick_pages) == expected
    assert deflated == naive.encode_pfn(pages[::-1], kick_pages)
    decoded = wire.decode(inflated, "pfn", kick_pages=kick_pages)
    assert decoded["start_pfn"].tolist() == pages
    assert wire.get("pfn", kick_pages).max_kicks(len(pages), 3 * GIB) == len(expected)


def test_numbers_of_pages_per_kick_that_are_none():
    for protocol, kick_pages, words in (
        ("pfn", 63, "a whole number from 64 to 65536, got 63"),
        ("pfn", 65_537, "got 65537"),
        ("bitmap-v4", 512, "must be 256 with protocol='bitmap-v4', got 512: its messages are no"),
    ):
        with pytest.raises(ValueError, match=words):
            wire.encode([1], protocol, kick_pages=kick_pages)
    with pytest.raises(TypeError):
        wire.encode([1], "pfn", kick_pages=64.0)
    with pytest.raises(ValueError, match="has 1028 bytes, and no message more than 1024"):
        wire.decode(wire.encode(range(257), "pfn", 512), "pfn")
    own = np.zeros(MIB // 8, np.uint8)
    with LocalTransport(own, DRIVER_GPA, OFFERED, False) as transport:
        buddy = Buddy.idle(64)
        with pytest.raises(ValueError, match=r"own_memory must have 290816 bytes .*, got 131072"):
            BalloonDriver(transport, buddy, wire.get("pfn", 65_536), 9)


def test_so_are_those_of_the_driver_as_posted():
    pages = [*range(5, 300), 1000, *range(70_000, 70_100)]
    inflated, _ = conversation("bitmap-v4-posted", pages, GIB)
    assert inflated == wire.encode(pages, "bitmap-v4-posted")


@pytest.mark.parametrize("bitmaps", [1, 2, 32])
def test_several_windows_are_encoded_as_the_twin_does(bitmaps):
    memory_pages = 3 * GIB
    rng = np.random.default_rng(bitmaps)
    pages = rng.permutation(ram_ranges(memory_pages)[-1].end)[:500]
    inflated, _ = conversation("bitmap-v4", pages, memory_pages, bitmaps)
    assert inflated == naive.encode_bitmap_v4(pages.tolist(), min(bitmaps, 3))


@given(pfn=st.integers(0, 2**52 - 1), page_shift=st.integers(0, 63), bmap_len=st.integers(0, 63))
def test_a_head_is_split_into_what_it_was_made_of(pfn, page_shift, bmap_len):
    head = make_head(np.uint64(pfn), page_shift, bmap_len)
    assert int(head).to_bytes(8, "little") == naive.head(pfn, page_shift, bmap_len)
    assert split_head(np.uint64(head)) == (pfn, page_shift, bmap_len)


@pytest.mark.slow_interpreted
def test_sparse_pages_of_the_posted_driver_are_encoded_at_once():
    """Window by window, 2**28 of them were walked: a minute, in which no Ctrl-C was heard."""
    assert len(wire.encode([0, 2**51 + 1], "bitmap-v4-posted")) == 2
    sparse = (np.arange(1, 1001, dtype=np.uint64) << np.uint64(41)) + np.uint64(1)
    assert len(wire.encode(sparse, "bitmap-v4-posted")) == 1000


@given(first=st.integers(0, 3), gaps=st.lists(st.integers(1, 40), max_size=4))
def test_empty_windows_count_as_walked(first, gaps):
    """As many list entries are read as if each window was walked by itself."""
    starts = np.cumsum([first, *gaps]) * 32 * BITMAP
    pages = [int(start) + 1 for start in starts]
    run = wire.run_posted(pages)
    if run.fault is None:
        assert run.n_walked == len(pages) * (starts[-1] - starts[0]) // (32 * BITMAP) + len(pages)


def test_decode_refuses_what_is_no_buffer_and_what_is_too_long():
    with pytest.raises(TypeError, match=r"stream must hold buffers .*got 1 of type int"):
        wire.decode([1, 2], "pfn")
    with pytest.raises(ValueError, match="has 1028 bytes, and no message more than 1024"):
        wire.decode([bytes(1028)], "pfn")


def test_every_encoding_of_a_format_has_an_encoder_and_no_other_is_taken_for_one(monkeypatch):
    encodings = {wire.get(name).encoding for name in wire.formats()}
    assert encodings == set(Encoding) - {Encoding.BLOCKS}
    blocks = replace(wire.get("pfn"), encoding=Encoding.BLOCKS)
    monkeypatch.setitem(wire._FORMATS, "blocks", blocks)
    with pytest.raises(ValueError, match="'blocks' has no buffers to encode pages into"):
        wire.encode([1], "blocks")
    encoder = make_encoder(Encoding.RECORDS, 64)._replace(encoding=99)
    begin(encoder, np.array([1], np.uint64))
    assert next_message(encoder, np.array([1], np.uint64)) == 0
    fault, ranges = np.zeros(1, faults.FAULTS), np.zeros((9, 2), np.int64)
    assert decode(99, np.array([1], np.uint64), 8, ranges, fault) == 0
