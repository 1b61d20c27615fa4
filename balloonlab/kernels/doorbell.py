"""Doorbells: how a driver kicks the device and waits until a message of its is used.

One NamedTuple and two functions for each way; `kick` and `wait` pick them by the doorbell's type. A
driver's code is the same with all of them.

No wake-up is lost, however many messages are in flight:

- The driver makes a message available, then, past a fence, reads whether kicks are suppressed
  (``used.flags``). A device that suppresses them looks at the available index once more after it
  has allowed them again (virtio 1.x, section 2.7.10): one of the two sees what the other wrote.
- The device moves the used index before it signals, and an eventfd keeps a signal until it is read.
  A driver that saw the old index sleeps no longer than to that signal, even if it came first.
- Calls are suppressed (``avail.flags``) only by a driver that polls and never sleeps: there is no
  moment at which one that sleeps must not be called.
- A message that was taken without sleeping leaves its signal behind, which ends the next sleep
  early: whoever wakes looks at the index again. What breaks the queue signals, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from .compile import kernel
from .intrinsics import load_acquire, store_release
from .syscalls import (
    receive_bytes,
    send_bytes,
    signal_event,
    wait_event,
    wait_input,
    wait_readable,
)
from .vcpu import write_port
from .vring import BROKEN, FLAGS, INDEX, NO_INTERRUPT, NO_NOTIFY, Ring

USED, RING_BROKEN, NO_ANSWER, REFUSED, NOT_USED = range(5)
"""What came of a kick. The first two are any device's, the others QEMU's."""

FOREVER = -1  # ms
_NEWLINE, _O, _K = 10, 79, 75


class Eventfds(NamedTuple):
    """Two eventfds: the device sleeps on one, the driver on the other."""

    kick: int
    call: int


class Polled(NamedTuple):
    """The device's end of a driver in another process: what `kick` is made of is the driver's.

    An epoll descriptor, which sees each kick as an edge and reads nothing: a driver that empties
    or blocks its own eventfd can keep its kicks to itself, but not hold the device.
    """

    kick: int
    call: int


class Ports(NamedTuple):
    """Two I/O ports, which a driver in a virtual machine has in the place of `Eventfds`."""

    kick: int  # KVM signals the device's eventfd
    wait: int  # the machine is left until the driver's eventfd is signalled
    written: np.ndarray  # int64, shape (2,): how often each was written to


class Qtest(NamedTuple):
    """A QEMU process: a kick is a line of qtest, whose answer is the call.

    QEMU handles the queue while it carries out the line's register write, and answers after that.
    """

    fd: int  # the qtest socket
    request: np.ndarray  # uint8: the line that writes the queue's number to QueueNotify
    reply: np.ndarray  # uint8, shape (64,)


class Queue(NamedTuple):
    """One virtqueue and its doorbell."""

    ring: Ring
    doorbell: Eventfds | Polled | Ports | Qtest


@kernel
def _write(port, written, which):
    written[which] += 1
    write_port(port)


def _kick(doorbell: Any, cell: np.ndarray) -> None:
    signal_event(doorbell.kick, cell)


@overload(_kick)
def _kick_by_type(doorbell, cell):
    if doorbell.instance_class is Ports:
        return lambda doorbell, cell: _write(doorbell.kick, doorbell.written, 0)
    return lambda doorbell, cell: signal_event(doorbell.kick, cell)


def _sleep(doorbell: Any, cell: np.ndarray) -> None:
    wait_event(doorbell.call, cell)


@overload(_sleep)
def _sleep_by_type(doorbell, cell):
    if doorbell.instance_class is Ports:
        return lambda doorbell, cell: _write(doorbell.wait, doorbell.written, 1)
    return lambda doorbell, cell: wait_event(doorbell.call, cell)


@kernel
def _kick_by_ring(doorbell, ring, cell):
    if load_acquire(ring.used, FLAGS) & NO_NOTIFY == 0:
        _kick(doorbell, cell)
    return USED


@kernel
def _wait_by_ring(doorbell, ring, cell):
    """Sleep until called; with NO_INTERRUPT in ``avail.flags`` poll (the patch's busy wait)."""
    busy = ring.avail[FLAGS] & NO_INTERRUPT != 0
    seen = ring.taken[0] & 0xFFFF
    while np.int64(load_acquire(ring.used, INDEX)) == seen:
        if load_acquire(ring.control, BROKEN) != 0:
            return RING_BROKEN
        if not busy:
            _sleep(doorbell, cell)
    return USED


@kernel
def _kick_by_qtest(doorbell, ring, cell):
    """Send the line, read the answer: QEMU must have used the message then."""
    if send_bytes(doorbell.fd, doorbell.request) != doorbell.request.size:
        return NO_ANSWER
    reply = doorbell.reply
    n = 0
    while n == 0 or reply[n - 1] != _NEWLINE:
        got = receive_bytes(doorbell.fd, reply[n:])
        if got <= 0:
            return NO_ANSWER if n < reply.size else REFUSED
        n += got
    if n != 3 or reply[0] != _O or reply[1] != _K:
        return REFUSED
    return USED if load_acquire(ring.used, INDEX) == ring.avail[INDEX] else NOT_USED


@kernel
def _wait_by_qtest(doorbell, ring, cell):
    return USED


_KICKS = {Eventfds: _kick_by_ring, Ports: _kick_by_ring, Qtest: _kick_by_qtest}
_WAITS = {Eventfds: _wait_by_ring, Ports: _wait_by_ring, Qtest: _wait_by_qtest}


def kick(doorbell: Any, ring: Ring, cell: np.ndarray) -> int:
    """Kick the device; return `USED`, or what went wrong.

    `cell` is int64 scratch, shape (2,), which `Ports` do without.
    """
    return _KICKS[type(doorbell)](doorbell, ring, cell)


def wait(doorbell: Any, ring: Ring, cell: np.ndarray) -> int:
    """Wait until the used ring has an entry that was not taken; return `USED`, or why it has none.

    It is `balloonlab.kernels.vring.take_used` that takes it. `cell` as of `kick`.
    """
    return _WAITS[type(doorbell)](doorbell, ring, cell)


@overload(kick)
def _typed_kick(doorbell, ring, cell):
    way = _KICKS[doorbell.instance_class]
    return lambda doorbell, ring, cell: way(doorbell, ring, cell)


@overload(wait)
def _typed_wait(doorbell, ring, cell):
    way = _WAITS[doorbell.instance_class]
    return lambda doorbell, ring, cell: way(doorbell, ring, cell)


@kernel
def _sleep_on_eventfd(doorbell, patience_ms, cell):
    if patience_ms != FOREVER and not wait_input(doorbell.kick, patience_ms, cell):
        return False
    wait_event(doorbell.kick, cell)
    return True


@kernel
def _sleep_on_epoll(doorbell, patience_ms, cell):
    return wait_readable(doorbell.kick, patience_ms, cell)


_SLEEPS = {Eventfds: _sleep_on_eventfd, Polled: _sleep_on_epoll}


def wait_for_kick(doorbell: Any, patience_ms: int, cell: np.ndarray) -> bool:
    """Sleep until a kick, or until somebody wants the device to look; it may wake early.

    The device's end of `Eventfds` and `Polled`. False where none came for `patience_ms`, which may
    be FOREVER.
    """
    return _SLEEPS[type(doorbell)](doorbell, patience_ms, cell)


@overload(wait_for_kick)
def _typed_sleep(doorbell, patience_ms, cell):
    sleep = _SLEEPS[doorbell.instance_class]
    return lambda doorbell, patience_ms, cell: sleep(doorbell, patience_ms, cell)


@kernel
def call(doorbell, ring, cell):
    """Wake the driver, unless it asked not to be called; the device's end."""
    if load_acquire(ring.avail, FLAGS) & NO_INTERRUPT == 0:
        signal_event(doorbell.call, cell)


@kernel
def mark_broken(queue, reason, cell):
    """Stop the device for good (virtio's DEVICE_NEEDS_RESET) and wake the driver."""
    store_release(queue.ring.control, BROKEN, np.int64(reason))
    signal_event(queue.doorbell.call, cell)
