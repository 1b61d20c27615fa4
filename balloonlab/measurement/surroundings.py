"""What is around a measurement: hypervisor, settings that change times, and who else is at work.

What cannot be read is said: a value that begins with ``unknown``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

UNKNOWN = "unknown"
BALLOON_DEVICE, REPORTING_BIT = "0x0005", 5
"""Of virtio: this machine's own balloon, and its feature of free page reporting."""

VENDORS = {
    "amazon ec2": "amazon", "microsoft corporation": "microsoft", "vmware": "vmware", "xen": "xen",
    "innotek": "virtualbox", "parallels": "parallels", "google": "google", "qemu": "qemu",
    "kvm": "kvm",
}  # fmt: skip
"""What firmware calls the makers of virtual machines."""

NO_FLAGS = "addr=", "console=", "earlyprintk=", "init=", "ip=", "nfsroot=", "rdinit=", "root="
"""Beginnings of words of the kernel's command line that say where it boots from."""


def describe_surroundings(root: Path = Path("/")) -> dict[str, Any]:
    """Return what a reader of times must know of the machine, read below `root`.

    ``hypervisor`` that this machine runs in; ``clock``; ``governor`` of its processors; ``idle``
    (driver and governor); ``halt_poll_ns`` of its KVM; ``thp`` and ``khugepaged`` settings;
    ``ksm`` and ``damon``, which merge and page out memory meanwhile; ``free_page_reporting`` by
    this machine to its host, with its ``page_reporting_order``: memory that is given back is
    faulted in anew at its next use; ``flags`` of the kernel's command line; ``load_average`` and
    ``steal_ticks`` so far.
    """
    text = _Reader(root)
    idle = "sys/devices/system/cpu/cpuidle"
    huge = "sys/kernel/mm/transparent_hugepage"
    return {
        "hypervisor": _hypervisor(text),
        "clock": text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "governor": _governor(text),
        "idle": {name: text(f"{idle}/current_{name}") for name in ("driver", "governor")},
        "halt_poll_ns": text("sys/module/kvm/parameters/halt_poll_ns"),
        "thp": {name: text(f"{huge}/{name}") for name in ("enabled", "defrag", "shmem_enabled")},
        "khugepaged_defrag": text(f"{huge}/khugepaged/defrag"),
        "ksm": text("sys/kernel/mm/ksm/run"),
        "damon": _damon(text),
        "free_page_reporting": _reporting(text),
        "page_reporting_order": text("sys/module/page_reporting/parameters/page_reporting_order"),
        "flags": _flags(text),
        "load_average": text("proc/loadavg", lambda line: [float(n) for n in line.split()[:3]]),
        "steal_ticks": text("proc/stat", lambda lines: int(lines.split("\n")[0].split()[8])),
    }


class _Reader:
    """Reads files below a root; the value says why where there is none."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, of: Callable[[str], Any] = str.strip) -> Any:
        try:
            return of((self.root / name).read_text())
        except FileNotFoundError:
            return f"{UNKNOWN}: no such file, /{name}"
        except OSError as error:
            return f"{UNKNOWN}: {error.strerror}, /{name}"
        except (ValueError, IndexError) as error:
            return f"{UNKNOWN}: /{name} cannot be understood ({error})"


def _is_known(value: Any) -> bool:
    return not str(value).startswith(UNKNOWN)


def _hypervisor(text: _Reader) -> str:
    """Return who runs this machine, as far as its files tell."""
    if _is_known(kind := text("sys/hypervisor/type")):
        return str(kind)
    if _is_known(hints := text("sys/firmware/devicetree/base/hypervisor/compatible")):
        return str(hints).strip("\0")
    dmi = [text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    for maker in map(str.lower, filter(_is_known, dmi)):
        if found := next((word for name, word in VENDORS.items() if name in maker), ""):
            return found
    if text("sys/devices/system/clocksource/clocksource0/current_clocksource") == "kvm-clock":
        return "kvm"
    flags = text("proc/cpuinfo", _processor_flags)
    if "hypervisor" in flags:
        return f"{UNKNOWN}: there is one (a flag of the processor), but no file names it"
    return "none" if _is_known(flags) else f"{UNKNOWN}: no such file, /proc/cpuinfo"


def _processor_flags(lines: str) -> str | list[str]:
    named = (line for line in lines.splitlines() if line.startswith(("flags", "Features")))
    return next((line.split(":")[1].split() for line in named), f"{UNKNOWN}: no flags")


def _governor(text: _Reader) -> str:
    folders = sorted((text.root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    names = [text(f"{folder.relative_to(text.root)}/scaling_governor") for folder in folders]
    missing = f"{UNKNOWN}: no such file, /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return ", ".join(sorted(set(names))) or missing


def _reporting(text: _Reader) -> str:
    """Return whether this machine reports its free pages to its host."""
    found = []
    for folder in sorted((text.root / "sys/bus/virtio/devices").glob("*")):
        name = folder.relative_to(text.root)
        if text(f"{name}/device") == BALLOON_DEVICE:
            features = text(f"{name}/features")
            if not _is_known(features):
                return str(features)
            found.append(features[REPORTING_BIT : REPORTING_BIT + 1] == "1")
    if not (text.root / "sys/bus/virtio").exists():
        return f"{UNKNOWN}: no such file, /sys/bus/virtio"
    return "yes" if any(found) else "no" if found else "no: no virtio balloon"


def _damon(text: _Reader) -> str:
    """Return whether the kernel watches memory (DAMON), and what it does with what is cold."""
    place = "sys/kernel/mm/damon/admin/kdamonds"
    threads = sorted((text.root / place).glob("[0-9]*"))
    if not threads:
        return "off" if (text.root / place).exists() else f"{UNKNOWN}: no such file, /{place}"
    actions: list[str] = []
    for thread in threads:
        if text(f"{place}/{thread.name}/state") == "on":
            schemes = sorted(thread.glob("contexts/*/schemes/*/action"))
            actions += [text(str(one.relative_to(text.root))) for one in schemes] or ["nothing"]
    return f"on: {', '.join(actions)}" if actions else "off"


def _flags(text: _Reader) -> list[str] | str:
    """Return the words of the command line that are for the kernel, without places."""
    line = text("proc/cmdline")
    if not _is_known(line):
        return str(line)
    words = line.partition(" -- ")[0].split()
    return [word for word in words if not word.startswith(NO_FLAGS) and "/" not in word]


class Noise(NamedTuple):
    """What else the processors did meanwhile: marks of a process start.

    Attributes
    ----------
    steal_percent
        Of the processors' time, what the hypervisor gave to others.
    others
        Processors that were busy with the work of others, on average.
    load_average
        Over the last minute, at the end; the start's own work is in it.
    """

    steal_percent: float
    others: float
    load_average: float

    def beyond(self, limits: dict[str, float]) -> list[str]:
        """Return what is over the limits, as text."""
        marks = self._asdict()
        return [
            f"{name} {marks[name]:.2f}, over {most:g}"
            for name, most in limits.items()
            if marks[name] > most
        ]


class NoiseMeter:
    """Reads the processors' clocks; `since` compares two moments, between which children ended."""

    def __init__(self) -> None:
        times, own = psutil.cpu_times(), os.times()
        busy = times.user + times.nice + times.system + times.irq + times.softirq
        self._busy_s, self._steal_s, self._all_s = busy, times.steal, sum(times[:8])
        self._own_s = sum(own[:4])  # of ours, and of children that have ended

    def since(self, before: NoiseMeter) -> Noise:
        """Return the marks of the time from another moment to this one."""
        whole_s = max(self._all_s - before._all_s, 1e-9)
        busy_s = self._busy_s - before._busy_s - (self._own_s - before._own_s)
        n_processors = psutil.cpu_count() or 1
        steal = 100 * (self._steal_s - before._steal_s) / whole_s
        others = max(0.0, busy_s / whole_s * n_processors)
        return Noise(round(steal, 3), round(others, 3), round(os.getloadavg()[0], 2))
