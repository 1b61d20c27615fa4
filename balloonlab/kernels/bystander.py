"""A thread of the guest that works on memory of its own, and how long its steps take."""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .hostile import draw
from .intrinsics import load_acquire
from .syscalls import now_ns
from .translate import PAGE_BYTES

STEP_WORDS = 64  # some 1 to 2 us of work, most of it misses of the cache and of the TLB
PAGE_WORDS = PAGE_BYTES // 8
PARTS = 16
"""Bins of a histogram from one power of two to the next: a time is known to 6 %."""

N_BINS = 64 * PARTS
ALONE, INFLATING, BETWEEN, STOP = range(4)
"""Phases in `control`; between the first two the guest is made ready."""


@kernel
def bin_of(ns):
    """Return the bin of a time: below 16 ns one each, above 16 for each doubling."""
    shift = 0
    while ns >> shift >= 2 * PARTS:
        shift += 1
    return PARTS * shift + (ns >> shift)


@kernel
def step(words, offsets, state):
    """Add 1 to STEP_WORDS words (uint64) drawn of pages, whose byte offsets are `offsets`.

    A page's first word is never written. `state` is that of the generator.
    """
    for _ in range(STEP_WORDS):
        x = draw(state)
        page = offsets[np.int64(x >> np.uint64(33)) % offsets.size]
        word = 1 + np.int64(x & np.uint64(0xFFFFF)) % (PAGE_WORDS - 1)
        words[page // 8 + word] += np.uint64(1)


@kernel
def work(ram, offsets, state, control, counts, sums, clock):
    """Do step after step until ``control[0]`` is STOP.

    Counts steps in ``counts[phase]``, shape (3, N_BINS), by their time, which begins where the last
    step's ended: what keeps this thread from running is in it. `sums`, shape (3, 3): steps, ns, the
    longest step.
    """
    words = ram.view(np.uint64)
    begin_ns = now_ns(clock)
    while True:
        phase = load_acquire(control, 0)
        if phase == STOP:
            return
        step(words, offsets, state)
        end_ns = now_ns(clock)
        took = end_ns - begin_ns
        begin_ns = end_ns
        counts[phase, bin_of(took)] += 1
        sums[phase, 0] += 1
        sums[phase, 1] += took
        sums[phase, 2] = max(sums[phase, 2], took)
