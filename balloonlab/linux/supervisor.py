"""Ends a Linux with all that it started, whatever ends us; an interpreter of its own runs this.

A User-Mode Linux that is killed leaves processes behind, which ignore their parent's death. The
supervisor is the parent that orphans of its descendants get (PR_SET_CHILD_SUBREAPER). It waits for
the end of its Linux, or of the pipe whose other end only its starter has, however that ended; then
it kills all that is left and removes the guest's folder.

``python -I -S supervisor.py LIFELINE FOLDER PROGRAM ARGUMENT ...``
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
ADDR_NO_RANDOMIZE = 0x0040000
"""Of personality(2): the guest's memory begins at the same page every time."""


def start(command: list[str]) -> int:
    """Start a program in a process group of its own; return its number."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.personality(ADDR_NO_RANDOMIZE)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.execv(command[0], command)
    with suppress(OSError):  # it was quicker itself
        os.setpgid(child, child)
    return child


def children() -> list[int]:
    """Return the processes whose parent this one is."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


def end_all(group: int) -> int:
    """Kill a process group and all descendants; return the status of its leader."""
    status = 0
    while True:
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)
        for child in children():
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == group else status
        except ChildProcessError:
            return status
        time.sleep(0.005)


def main(lifeline: int, folder: str, command: list[str]) -> int:
    """Run a program until it ends, or whoever holds the lifeline does; return its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    child = 0
    try:
        child = start(command)
        os.set_inheritable(lifeline, False)
        ends = select.poll()
        for fd in (lifeline, os.pidfd_open(child)):
            ends.register(fd, select.POLLIN | select.POLLHUP)
        ends.poll()
    finally:
        status = end_all(child) if child else 1
        shutil.rmtree(folder, ignore_errors=True)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
