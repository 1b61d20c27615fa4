"""Threads that discard beside the device's own: shares of one batch of extents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel
from .discard import Discard, discard, discard_vectored, sort_extents
from .intrinsics import load_acquire, store_release
from .syscalls import now_ns, signal_event, wait_event

STOP, DEAD = 0, 1
"""Where in `Crew.control` threads are told to end, and where one that died says so."""

HUGE_BYTES = 1 << 21  # shares of a long extent end at huge pages, which stay whole

LEAST_EXTENTS = 64
LEAST_BYTES = 1 << 22
"""What a batch must have of either to be shared: waking a thread takes as long as 20 calls on
touched pages, or as freeing 1 MiB of them."""


class Crew(NamedTuple):
    """What the device and its other threads share; without them all arrays are empty."""

    starts: np.ndarray  # int64: an eventfd for each other thread, which sleeps on it
    finished: np.ndarray  # int64: the same, on which the device sleeps
    shares: np.ndarray  # int64, shape (extents + threads, 2): one share after the other
    bounds: np.ndarray  # int64, shape (threads + 1,): where in `shares` each begins and ends
    outcomes: np.ndarray  # int64, shape (3 * threads,): round, calls and failed calls of each
    control: np.ndarray  # int64, shape (2,)
    cell: np.ndarray  # int64, shape (2,): the device's scratch


@kernel
def split(extents, crew):
    """Fill the shares with the extents, about as many bytes to each; return the bytes.

    `bounds` has one entry more than there are threads.
    """
    bounds, shares = crew.bounds, crew.shares
    n_threads = bounds.size - 1
    total = 0
    for i in range(extents.shape[0]):
        total += extents[i, 1]
    at, n, k = 0, 0, 1
    bounds[0] = 0
    for i in range(extents.shape[0]):
        offset, n_bytes = extents[i, 0], extents[i, 1]
        while k < n_threads and at + n_bytes > total * k // n_threads:
            cut = (offset + total * k // n_threads - at) // HUGE_BYTES * HUGE_BYTES - offset
            if cut > 0:
                shares[n, 0] = offset
                shares[n, 1] = cut
                n += 1
                offset += cut
                n_bytes -= cut
                at += cut
            bounds[k] = n
            k += 1
        shares[n, 0] = offset
        shares[n, 1] = n_bytes
        n += 1
        at += n_bytes
    while k <= n_threads:
        bounds[k] = n
        k += 1
    return total


@kernel
def _do(how, memory, extents, verb, vectors):
    if how == Discard.VECTOR or how == Discard.SORTED_VECTOR:
        return discard_vectored(memory, extents, verb, vectors)
    return extents.shape[0], discard(memory, extents, verb)


@kernel
def _do_share(crew, number, how, memory, verb, vectors):
    extents = crew.shares[crew.bounds[number] : crew.bounds[number + 1]]
    n_calls, failed = _do(how, memory, extents, verb, vectors)
    crew.outcomes[3 * number + 1] = n_calls
    crew.outcomes[3 * number + 2] = failed


@kernel
def work(crew, number, how, memory, verb, vectors, cell):
    """Discard the shares of thread `number`, from 1, until told to stop."""
    while True:
        wait_event(crew.starts[number - 1], cell)
        if load_acquire(crew.control, STOP) != 0:
            return
        done = crew.outcomes[3 * number]
        if load_acquire(crew.outcomes, 0) == done:  # woken by a signal
            continue
        _do_share(crew, number, how, memory, verb, vectors)
        store_release(crew.outcomes, 3 * number, done + 1)
        signal_event(crew.finished[number - 1], cell)


@kernel
def _do_together(crew, how, memory, verb, vectors):
    outcomes, cell = crew.outcomes, crew.cell
    n_others = crew.starts.size
    now = outcomes[0] + 1
    store_release(outcomes, 0, now)
    for i in range(n_others):
        signal_event(crew.starts[i], cell)
    _do_share(crew, 0, how, memory, verb, vectors)
    n_calls, failed = outcomes[1], outcomes[2]
    for i in range(n_others):
        at = 3 * (i + 1)
        while load_acquire(outcomes, at) != now and load_acquire(crew.control, DEAD) == 0:
            wait_event(crew.finished[i], cell)
        if load_acquire(outcomes, at) == now:
            n_calls += outcomes[at + 1]
            failed += outcomes[at + 2]
        else:
            failed += 1
    return n_calls, failed


@kernel
def apply(how, memory, extents, verb, vectors, crew):
    """Discard extents as one of `Discard` does; return how many failed of how many calls.

    And before these how many extents there were, which sorting merges in place.
    """
    n = extents.shape[0]
    if how == Discard.SORTED or how == Discard.SORTED_VECTOR:
        n = sort_extents(extents, vectors.scratch)
    if crew.starts.size > 0:
        n_bytes = split(extents[:n], crew)
        if n >= LEAST_EXTENTS or n_bytes >= LEAST_BYTES:
            n_calls, failed = _do_together(crew, how, memory, verb, vectors)
            return n, n_calls, failed
    n_calls, failed = _do(how, memory, extents[:n], verb, vectors)
    return n, n_calls, failed


@kernel
def timed_discard(how, memory, extents, verb, vectors, crew, cell):
    """Discard extents as the device does; return its calls, how many failed, and the ns."""
    begin_ns = now_ns(cell)
    _, n_calls, failed = apply(how, memory, extents, verb, vectors, crew)
    return n_calls, failed, now_ns(cell) - begin_ns
