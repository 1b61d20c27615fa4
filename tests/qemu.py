"""What the tests that need QEMU share."""

import psutil
import pytest

import balloonlab as bl
from balloonlab.qemu import QemuError


def why_not():
    try:
        bl.qemu.find()
    except QemuError as error:
        return str(error)
    return ""


def needs_qemu(test):
    reason = why_not()
    return pytest.mark.once(pytest.mark.skipif(bool(reason), reason=reason)(test))


def children():
    """List the processes this one started; the one that Python keeps for its pools is no leak."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "from multiprocessing" not in " ".join(process.cmdline())
    ]


def measure(**arguments):
    return bl.measure(**{"memory": "64MiB", "repeats": 1, "host": "qemu", **arguments})
