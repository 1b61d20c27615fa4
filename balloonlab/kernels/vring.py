"""A split virtqueue, virtio 1.x section 2.7: both ends of its three areas.

The layout is the specification's; the fields are read and written where they
stand in guest memory. Each message that a driver may have in flight has
descriptors of its own; the driver of Linux has one, and starts it at descriptor 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel
from .intrinsics import copy_items, fence, load_acquire, store_release
from .translate import resolve

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
FLAGS, INDEX, ENTRIES = 0, 1, 2  # of the available and the used area, in 16-bit words
NO_NOTIFY = 1  # used.flags: the device asks for no kicks
NO_INTERRUPT = 1  # avail.flags: the driver asks for no calls
COMMAND_BYTES = 4  # of a command id of free page hinting

DESCRIPTOR = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
USED_ENTRY = np.dtype([("id", "<u4"), ("len", "<u4")])

STOP, BROKEN = 0, 1
"""Cells of `Ring.control`: leave the loop; why the device needs a reset (0: it does not)."""

BAD_INDEX, BAD_HEAD, BAD_LOOP, BAD_FLAGS, BAD_ADDRESS, BAD_LENGTH = range(1, 7)
DEVICE_DIED, INTERRUPTED, BAD_USED = 7, 8, 9

BROKEN_REASONS = {
    BAD_INDEX: "the available index ran ahead by more than the queue's size",
    BAD_HEAD: "a descriptor number is outside the queue",
    BAD_LOOP: "a descriptor chain is longer than the queue",
    BAD_FLAGS: "a descriptor is device-writable or indirect, which this queue has no use for",
    BAD_ADDRESS: "a descriptor points outside the guest's memory",
    BAD_LENGTH: "a descriptor chain is longer than any message of the format",
    DEVICE_DIED: "the device's thread ended with an error",
    INTERRUPTED: "the run was interrupted",
    BAD_USED: "the device used a message that was not in flight",
}


class Ring(NamedTuple):
    """Views of one virtqueue and what its two ends share."""

    desc: np.ndarray  # DESCRIPTOR, shape (size,)
    avail: np.ndarray  # uint16: flags, idx, ring[size], used_event
    used: np.ndarray  # uint16 view of flags and idx
    used_ring: np.ndarray  # USED_ENTRY, shape (size,)
    control: np.ndarray  # int64, shape (2,): see STOP and BROKEN
    taken: np.ndarray  # int64, shape (1,): used entries the driver has seen


@kernel
def describe(ring, i, gpa, n_bytes, flags):
    """Write descriptor `i`; with DESC_NEXT among its flags the chain goes on at ``i + 1``."""
    ring.desc[i]["addr"] = np.uint64(gpa)
    ring.desc[i]["len"] = np.uint32(n_bytes)
    ring.desc[i]["flags"] = np.uint16(flags)
    ring.desc[i]["next"] = np.uint16(i + 1 if flags & DESC_NEXT != 0 else 0)


@kernel
def offer(ring, head=0):
    """Make the chain at a descriptor available; the kick is the doorbell's."""
    index = np.int64(ring.avail[INDEX])
    ring.avail[ENTRIES + index % ring.desc.size] = np.uint16(head)
    store_release(ring.avail, INDEX, np.uint16((index + 1) & 0xFFFF))
    fence()


@kernel
def take_used(ring):
    """Take the next entry of the used ring; return its chain's descriptor, -1 without any."""
    taken = ring.taken[0]
    if np.int64(load_acquire(ring.used, INDEX)) == taken & 0xFFFF:
        return -1
    ring.taken[0] = taken + 1
    return np.int64(ring.used_ring[taken % ring.desc.size]["id"])


@kernel
def fetch(ring, memory, head, copy):
    """Copy a chain's buffers out of guest memory, each byte read once, into `copy` (uint8).

    What the device validates is its own copy, which the guest cannot change. `head` is the first
    descriptor. Return the bytes copied, or minus the reason (BAD_...) that the queue is corrupt.
    """
    i = head
    total = 0
    for _ in range(ring.desc.size):
        if i >= ring.desc.size:
            return -BAD_HEAD
        gpa = np.int64(ring.desc[i]["addr"])
        n_bytes = np.int64(ring.desc[i]["len"])
        flags = np.int64(ring.desc[i]["flags"])
        follows = np.int64(ring.desc[i]["next"])
        if flags & (DESC_WRITE | DESC_INDIRECT) != 0:
            return -BAD_FLAGS
        offset = resolve(memory, gpa, n_bytes)
        if offset < 0:
            return -BAD_ADDRESS
        if total + n_bytes > copy.size:
            return -BAD_LENGTH
        copy_items(copy[total : total + n_bytes], memory.ram[offset : offset + n_bytes])
        total += n_bytes
        if flags & DESC_NEXT == 0:
            return total
        i = follows
    return -BAD_LOOP


@kernel
def fetch_blocks(ring, memory, head, words, state):
    """Copy a chain's descriptors that name blocks into `words` (uint64): address and bytes of each.

    Reporting and hinting name a block of free pages by a buffer that the device may write; nothing
    in it is read. A buffer of 4 bytes that it may not write is hinting's command id, which goes
    into ``state["command"]``. Return the bytes of `words` filled, or minus the reason (BAD_...).
    """
    i = head
    n = 0
    for _ in range(ring.desc.size):
        if i >= ring.desc.size:
            return -BAD_HEAD
        gpa = ring.desc[i]["addr"]
        n_bytes = np.int64(ring.desc[i]["len"])
        flags = np.int64(ring.desc[i]["flags"])
        follows = np.int64(ring.desc[i]["next"])
        if flags & DESC_INDIRECT != 0:
            return -BAD_FLAGS
        if flags & DESC_WRITE != 0:
            if n + 2 > words.size:
                return -BAD_LENGTH
            words[n] = gpa
            words[n + 1] = np.uint64(n_bytes)
            n += 2
        else:
            offset = resolve(memory, np.int64(gpa), n_bytes)
            if offset < 0:
                return -BAD_ADDRESS
            if n_bytes != COMMAND_BYTES:
                return -BAD_LENGTH
            command = np.int64(0)
            for k in range(COMMAND_BYTES):
                command |= np.int64(memory.ram[offset + k]) << (8 * k)
            state["command"] = command
        if flags & DESC_NEXT == 0:
            return 8 * n
        i = follows
    return -BAD_LOOP


@kernel
def push_used(ring, head, used):
    """Put a chain on the used ring as entry number `used`; the call is the doorbell's."""
    entry = used % ring.desc.size
    ring.used_ring[entry]["id"] = np.uint32(head)
    ring.used_ring[entry]["len"] = np.uint32(0)
    store_release(ring.used, INDEX, np.uint16((used + 1) & 0xFFFF))
    fence()
