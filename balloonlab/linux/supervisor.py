"""Ends a Linux with all that it started, whatever ends us; an interpreter of its own runs this.

A User-Mode Linux that is killed leaves processes behind, which ignore their parent's death. The
supervisor is the parent that orphans of its descendants get (PR_SET_CHILD_SUBREAPER). It waits for
the end of its Linux, or of the pipe whose other end only its starter has, however that ended; then
it kills all that is left and removes the guest's folder.

``python -I -S supervisor.py LIFELINE FOLDER PROGRAM ARGUMENT ...``
"""

import ctypes
import errno
import os
import select
import shutil
import signal
import struct
import sys
import time
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
ADDR_NO_RANDOMIZE = 0x0040000
"""Of personality(2): the guest's memory begins at the same page every time."""
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
"""What a filter of system calls answers: SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO."""
LOAD, EQUAL, ANSWER = 0x20, 0x15, 0x06
"""Instructions of a filter: a word of the call, is it a constant, the verdict."""
GET_XSTATE = ((4, 0xC000003E), (0, 101), (16, 0x4204), (32, 0x202))
"""Offsets in struct seccomp_data, and what is there: x86-64, ptrace, GETREGSET, NT_X86_XSTATE."""


def has_tiles(path: str = "/proc/cpuinfo") -> bool:
    """Return whether the processor has AMX, whose registers User-Mode Linux has no room for."""
    with open(path) as file:
        return any("amx_tile" in line.split() for line in file if line.startswith("flags"))


def hide_xstate(libc: ctypes.CDLL) -> None:
    """Let this process, and what it starts, see no XSAVE state of those that it traces.

    User-Mode Linux 6.1 has 2696 bytes for it, and with AMX it has 11008: the first 2696 are read,
    writing only these back is refused (EFAULT), and the guest's init dies of it. Where there is no
    such state (ENODEV) it saves that of FXSAVE, as later ones do too. Only calls of ptrace run the
    filter: Linux from 5.11 knows beforehand that it allows the others.
    """
    code = b""
    for left, (offset, value) in zip(range(len(GET_XSTATE), 0, -1), GET_XSTATE, strict=True):
        code += struct.pack("HBBI", LOAD, 0, 0, offset)
        code += struct.pack("HBBI", EQUAL, 0, 2 * left - 1, value)
    code += struct.pack("HBBI", ANSWER, 0, 0, FAIL_WITH | errno.ENODEV)
    code += struct.pack("HBBI", ANSWER, 0, 0, ALLOW)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def start(command: list[str]) -> int:
    """Start a program in a process group of its own; return its number."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.personality(ADDR_NO_RANDOMIZE)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if has_tiles():
            hide_xstate(libc)
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
