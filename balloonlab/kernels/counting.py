"""The host's side without memory: what a device would do with messages, counted, not done.

As `balloonlab.kernels.device.handle`, of which every step but the last is called here, too: what is
discarded there is counted here. A device that collects messages is taken to be kept busy: that no
kick comes for a millisecond is not foreseen.
"""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .crew import HUGE_BYTES, LEAST_BYTES, LEAST_EXTENTS, split
from .discard import Discard, complete, sort_extents
from .formats import decode
from .intrinsics import copy_items
from .syscalls import advise
from .translate import PAGE_BYTES, translate

MADV_DONTNEED = 4  # of Linux; `mmap` has it there alone


@kernel
def _count_calls(device, n_extents):
    if device.discard == Discard.VECTOR or device.discard == Discard.SORTED_VECTOR:
        n_vectors = device.vectors.iovecs.shape[0]
        return (n_extents + n_vectors - 1) // n_vectors
    return n_extents


@kernel
def _count_shares(device, extents):
    """Count the calls for extents as `balloonlab.kernels.crew.apply` makes them."""
    crew = device.crew
    if crew.starts.size > 0:
        n_bytes = split(extents, crew)
        if extents.shape[0] >= LEAST_EXTENTS or n_bytes >= LEAST_BYTES:
            n = 0
            for i in range(crew.bounds.size - 1):
                n += _count_calls(device, crew.bounds[i + 1] - crew.bounds[i])
            return n
    return _count_calls(device, extents.shape[0])


@kernel
def _count_partial(extents):
    """Count the pages of extents that are no whole huge pages of theirs."""
    n_bytes = 0
    for i in range(extents.shape[0]):
        end = extents[i, 0] + extents[i, 1]
        low = (extents[i, 0] + HUGE_BYTES - 1) // HUGE_BYTES * HUGE_BYTES
        n_bytes += extents[i, 1] - max(0, end // HUGE_BYTES * HUGE_BYTES - low)
    return n_bytes // PAGE_BYTES


@kernel
def count_held(device, partial):
    """Count the calls for the extents that are held, which then are no more.

    `partial` (int64, shape (1,)) gets the pages that lie in a huge page of which others stay.
    """
    state = device.state[0]
    extents, page_bytes = device.extents[: state["held"]], device.verb.page_bytes
    if page_bytes > PAGE_BYTES:
        n_whole = complete(extents, device.balloon, page_bytes, device.vectors)
        extents = device.vectors.whole[:n_whole]
    n = extents.shape[0]
    if device.discard == Discard.SORTED or device.discard == Discard.SORTED_VECTOR:
        n = sort_extents(extents, device.vectors.scratch)
    state["n_extents"] += n
    partial[0] += _count_partial(extents[:n])
    state["n_discards"] += _count_shares(device, extents[:n])
    state["held"] = 0
    state["n_collected"] = 0


@kernel
def _forget_before(balloon, page):
    """Give back the memory of the bits before a page of the mapping, which is not told again."""
    n_bytes = page // 8 // PAGE_BYTES * PAGE_BYTES
    if n_bytes > 0:
        advise(balloon.ctypes.data, n_bytes, MADV_DONTNEED)


@kernel
def count_messages(memory, device, data, message_bytes, partial, forgets):
    """Take messages that follow each other in `data` (uint8), of so many bytes but the last.

    Look-ups, extents and calls are added to the device's state, `partial` is as of `count_held`.
    With `forgets` the bits of a message's pages go while it is carried out: no page comes twice,
    and one message may name tens of TiB.
    """
    state, room = device.state[0], device.words.view(np.uint8)
    at = 0
    while at < data.size:
        n_bytes = min(message_bytes, data.size - at)
        copy_items(room[:n_bytes], data[at : at + n_bytes])
        at += n_bytes
        n_ranges = decode(device.decoding, device.words, n_bytes, device.ranges, device.faults)
        state["range"] = 0
        state["done"] = 0
        state["n_lookups"] = 0
        state["last_repeating"] = 0
        while state["range"] < n_ranges:
            state["held"] = translate(memory, device, device.ranges[:n_ranges])
            if state["range"] < n_ranges:
                n = state["held"]
                if forgets and n > 0:
                    end = device.extents[n - 1, 0] + device.extents[n - 1, 1]
                    _forget_before(device.balloon, end // PAGE_BYTES)
                count_held(device, partial)
        state["n_translations"] += state["n_lookups"]
        state["n_collected"] += 1
        if state["n_collected"] >= device.collect:
            count_held(device, partial)
