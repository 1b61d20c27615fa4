"""Which device answers: balloonlab's own, or that of an unmodified QEMU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..qemu import find
from .case import Case
from .on_qemu import operate_in_qemu
from .runner import Repeat, operate_in_lab


def operate_once(case: Case, guest: Any, run_id: str, number: int) -> Repeat:
    """Inflate or deflate the case's balloon once on its host.

    `guest` is what `balloonlab.measurement.runner.take_turn` hands over: the lab's RAM, or a QEMU.
    """
    operate = operate_in_qemu if case.host == "qemu" else operate_in_lab
    return operate(case, guest, run_id, number)


def describe_hosts(hosts: Iterable[str]) -> dict[str, Any]:
    """Tell the version of QEMU, where it is among the hosts, for the metadata."""
    return {"qemu": ".".join(map(str, find()[1]))} if "qemu" in hosts else {}
