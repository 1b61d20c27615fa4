"""One repeat with the driver in a KVM virtual processor, at balloonlab's own device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..guest import InVcpu
from ..host import GuestRam, Policy
from ..host.crew import Crew
from ..host.ram import bits_of
from ..kernels import clock, contents
from ..kernels.vcpu import write_often
from ..sizes import PAGE_BYTES
from ..vcpu import Vcpu
from .case import Case
from .checks import Pages
from .on_lab import Operated, carry_out, operate
from .on_lab import use as use_ram
from .stages import Repeat
from .stages_by_difference import quartiles

LONE_KICKS = 1000
PROBE_PAGES, PROBES = 512, 10


@dataclass(frozen=True)
class VirtualMachine:
    """A guest's RAM, and the processor that uses it."""

    ram: GuestRam
    vcpu: Vcpu

    def touch(self, advance: Callable[[int], object] = lambda n_bytes: None) -> None:
        """Write a signature into every page, as `GuestRam.touch` does, from inside.

        The host does so right before: the page tables end up the same, in half the time.
        """
        self.ram.touch(advance, self._call_twice)

    def _call_twice(self, function: Callable[..., Any], *arguments: Any) -> Any:
        function(*arguments)
        return self.vcpu.call(function, *arguments)

    def count_lost(self, ballooned: Pages) -> int:
        """Count the pages outside the balloon that lost their signature, as seen from inside."""
        ram = self.ram
        return self.vcpu.call(
            contents.count_lost, ram.memory.ram, ram.memory_pages, bits_of(ballooned)
        )


@contextmanager
def use(case: Case, ram: GuestRam) -> Iterator[VirtualMachine]:
    """Make a virtual machine for one repeat: nothing of RAM is in its page tables before."""
    with use_ram(case, ram), Vcpu() as vcpu:
        yield VirtualMachine(ram, vcpu)


def operate_in_kvm(case: Case, guest: VirtualMachine, run_id: str, number: int) -> Repeat:
    """Inflate or deflate the case's balloon once, as `operate_in_lab` does, from inside."""
    more = {**time_kicks(guest.vcpu), **time_discards(guest)}
    runner = InVcpu(guest.vcpu)

    def run(case: Case, ram: GuestRam) -> Operated:
        done = operate(case, ram, runner)
        more.update(wake_ups(case, done))
        return done

    repeat = carry_out(case, guest.ram, run_id, number, run, guest.count_lost)
    exits = runner.exits[-case.steps :]
    repeat.check.update(
        more,
        n_waits=sum(one.waits for one in exits),
        n_exits=sum(one.left for one in exits),
        clock_error_ns=guest.vcpu.clock.error_ns,
        clock_error_ppb=guest.vcpu.clock.error_ppb,
    )
    return repeat


def time_kicks(vcpu: Vcpu) -> dict[str, int]:
    """Time kicks that nobody listens to: an exit, KVM's work for it, and the way back.

    A RuntimeError where KVM signalled another number of kicks.
    """
    times = np.zeros(LONE_KICKS, np.int64)
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        arguments = vcpu.kick_port(eventfd), LONE_KICKS, vcpu.clock.tsc, times
        vcpu.warm(write_often, *arguments)
        vcpu.call(write_often, *arguments)
        kicks = os.eventfd_read(eventfd)
    finally:
        os.close(eventfd)
    if kicks != LONE_KICKS:
        raise RuntimeError(f"KVM must signal {LONE_KICKS} kicks, it signalled {kicks}")
    return quartiles("exit", times)


def time_discards(guest: VirtualMachine) -> dict[str, int]:
    """Time ``madvise`` of single pages that the guest, and in turn only the host, has touched."""
    probe = GuestRam(PROBE_PAGES)
    extents = np.array([(page * PAGE_BYTES, PAGE_BYTES) for page in range(PROBE_PAGES)])
    crew = Crew(Policy("range"), probe.memory, probe.verb(), PROBE_PAGES)
    cell, found = np.zeros(2, np.int64), dict[str, list[int]](mapped=[], unmapped=[])
    for _ in range(PROBES):
        for name, call in (("mapped", guest.vcpu.call), ("unmapped", _call)):
            probe.touch(call=call)
            _, failed, ns = crew.timed_discard(extents, cell)
            if failed:
                raise RuntimeError(f"{failed} madvise calls of the rehearsal failed")
            found[name].append(ns // PROBE_PAGES)
    parts = [quartiles(f"{name}_discard", np.array(ns)) for name, ns in found.items()]
    return parts[0] | parts[1]


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def wake_ups(case: Case, done: Operated) -> dict[str, int]:
    """Return quartiles of kick to host awake, and of its answer to the driver running again.

    Zeros where several messages are in flight: a host that is awake needs no wake-up.
    """
    if case.in_flight > 1:
        nothing = np.zeros(1, np.int64)
        return {**quartiles("awake", nothing), **quartiles("answer", nothing)}
    guest, host = _rows(done.log), _rows(done.devices[case.operation].log)
    trips = guest[guest[:, 0] == clock.ROUND_TRIP]
    first = np.flatnonzero(host[:, 0] == clock.DECODE)
    last = np.append(first[1:], len(host)) - 1
    awake, answer = host[first, 1] - trips[:, 1], trips[:, 2] - host[last, 2]
    return {**quartiles("awake", awake), **quartiles("answer", answer)}


def _rows(log: clock.Log) -> npt.NDArray[np.int64]:
    return log.rows[: log.length[0]]
