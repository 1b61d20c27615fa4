"""A guest and its host, wired: the driver, two queues, a device thread on each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .. import wire
from ..address_map import DRIVER_GPA, ram_ranges
from ..guest import OFFERED, BalloonDriver
from ..host import BalloonDevice, GuestRam
from ..host.device import EXTENTS, no_balloon
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..pages import Buddy
from ..queue import LocalTransport
from ..wire import Feature


@dataclass(frozen=True)
class Machine:
    """The two ends of a balloon, while they run.

    Attributes
    ----------
    driver : balloonlab.guest.BalloonDriver
    devices : dict
        The device's ``"inflate"`` and ``"deflate"`` queue.
    """

    driver: BalloonDriver
    devices: dict[str, BalloonDevice]


@contextmanager
def machine(
    ram: GuestRam,
    buddy: Buddy,
    protocol: str,
    discard: str | None = None,
    wait: str = "block",
    offered: Feature = OFFERED,
    bitmaps: int = MAX_BITMAPS,
    operations: int = 1,
) -> Iterator[Machine]:
    """Start a device and a driver that negotiated with it; stop both at the end.

    Parameters
    ----------
    ram : balloonlab.host.GuestRam
    buddy : balloonlab.pages.Buddy
        The guest's allocator.
    protocol : str
        How the driver would send pages.
    discard : {"page", "range"}, optional
        How the host applies it; by default as the protocol's hosts do.
    wait : {"block", "busy"}
    offered : balloonlab.wire.Feature
        What the device offers; the driver takes what it can of it.
    bitmaps : int
        Bitmaps that the guest has memory for, 0 to 32.
    operations : int
        Inflations and deflations whose intervals fit the logs; those of more are not logged.

    Yields
    ------
    Machine
    """
    wire_format = wire.get(protocol)
    pages = ram.memory_pages
    # PFNs are what a driver may fall back to, and the most kicks.
    span = ram_ranges(pages)[-1].end
    kicks = max(wire.get(name).max_kicks(pages, span) for name in ("pfn", protocol))
    rows = operations * (3 * (kicks + 1) + 2 * (pages // EXTENTS + 1))
    balloon = no_balloon(ram.memory.ram.size)
    with ExitStack() as stack:
        transport = stack.enter_context(
            LocalTransport(ram.driver_memory(), DRIVER_GPA, offered, wait == "busy")
        )
        driver = BalloonDriver(transport, buddy, wire_format, rows, bitmaps)
        spoken = wire_format if wire_format.feature in driver.features else wire.get("pfn")
        devices = {}
        for operation, queue in transport.virtqueues.items():
            device = BalloonDevice(
                ram, queue, spoken, discard or wire_format.discard, rows, balloon, operation
            )
            stack.callback(device.stop)
            device.start()
            devices[operation] = device
        yield Machine(driver, devices)
