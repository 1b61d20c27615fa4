"""A guest and its host, wired: the driver, two queues, a device thread on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from .. import wire
from ..address_map import DRIVER_GPA, ram_ranges
from ..guest import OFFERED, BalloonDriver, InVcpu, run_in_thread
from ..host import BalloonDevice, GuestRam, Policy
from ..host.device import EXTENTS, no_balloon, no_guard
from ..kernels.bitmap_v4 import MAX_BITMAPS
from ..kernels.pfn import PFNS_PER_BUFFER
from ..kernels.tsc import Tsc
from ..pages import Buddy
from ..queue import LocalTransport
from ..wire import Feature


@dataclass(frozen=True)
class Machine:
    """The two ends of a balloon, while they run; the devices by queue: inflate, deflate."""

    driver: BalloonDriver
    devices: dict[str, BalloonDevice]


@contextmanager
def machine(
    ram: GuestRam,
    buddy: Buddy,
    protocol: str,
    policy: Policy | None = None,
    wait: str = "block",
    offered: Feature = OFFERED,
    bitmaps: int = MAX_BITMAPS,
    operations: int = 1,
    vcpu: InVcpu | None = None,
    chunks: bool = False,
    kick_pages: int = PFNS_PER_BUFFER,
    in_flight: int = 1,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Machine]:
    """Start a device and a driver that negotiated with it; yield both, stop them at the end.

    The driver takes what it can of the `offered` features, and has memory for as many `bitmaps`;
    `policy` is by default as the protocol's hosts do it. The intervals of as many `operations`
    fit the logs, those of more are not logged. A thread runs the driver, or else `vcpu`. `chunks`
    and `in_flight` as of `BalloonDriver`, `kick_pages` as of `balloonlab.wire.encode`. `beside` is
    entered while an operation runs, without what is made ready before it.
    """
    wire_format = wire.get(protocol, kick_pages)
    pages = ram.memory_pages
    # PFNs are what a driver may fall back to, and the most kicks.
    span = ram_ranges(pages)[-1].end
    kicks = max(one.max_kicks(pages, span) for one in (wire.get("pfn"), wire_format))
    rows = operations * (4 * (kicks + in_flight) + 2 * (pages // EXTENTS + 1))
    balloon, guard = no_balloon(ram.memory.ram.size), no_guard()
    policy = policy or Policy(wire_format.discard)
    with ExitStack() as stack:
        transport = stack.enter_context(
            LocalTransport(ram.driver_memory(), DRIVER_GPA, offered, wait == "busy")
        )
        runner: tuple[Callable[..., int], Tsc | None] = partial(run_in_thread, beside=beside), None
        if vcpu is not None:
            runner = partial(vcpu.run, beside=beside), vcpu.clock
            transport.queues = {name: vcpu.queue(ends) for name, ends in transport.queues.items()}
        driver = BalloonDriver(
            transport, buddy, wire_format, rows, bitmaps, *runner, chunks, in_flight
        )
        policy.check_features(driver.features)
        spoken = wire_format if wire_format.feature in driver.features else wire.get("pfn")
        devices = {}
        for operation, queue in transport.virtqueues.items():
            device = BalloonDevice(
                ram, queue, spoken, policy, rows, balloon, operation, guard=guard
            )
            stack.callback(device.stop)
            device.start()
            devices[operation] = device
        yield Machine(driver, devices)
