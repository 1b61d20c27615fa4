"""The guest's file system: its init, compiled here, and the kernel's modules."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import GuestError, run

SOURCE = Path(__file__).with_name("guest.c")

DIRECTORY, PROGRAM = 0o040755, 0o100755
"""Modes of the entries; all files are programs here."""


def compiler() -> str | None:
    """Return the path of a C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compile_guest(source: Path = SOURCE) -> bytes:
    """Return the guest's init, compiled and static."""
    cc = compiler()
    if cc is None:
        raise GuestError(
            "a C compiler is needed for the guest's init, and there is no cc, gcc or clang: "
            "install one (Debian: apt-get install gcc libc6-dev)"
        )
    with TemporaryDirectory(prefix="balloonlab-") as folder:
        program = Path(folder) / "init"
        advice = "the guest's init needs the static C library (Debian: apt-get install libc6-dev)"
        run(cc, "-static", "-Os", "-o", str(program), str(source), advice=advice)
        return program.read_bytes()


def cpio(files: Mapping[str, bytes | None]) -> bytes:
    """Return a cpio archive as the kernel reads it for an initramfs.

    Contents by path, without a leading slash; None makes a directory, which must come before what
    is in it. The format is ``newc`` (Linux, ``driver-api/early-userspace/buffer-format.rst``).
    """
    archive = bytearray()
    for number, (path, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], start=1):
        mode = DIRECTORY if content is None else PROGRAM
        body, name = content or b"", path.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device and its node's numbers, name, check
        fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + body
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def build(modules: list[bytes]) -> bytes:
    """Return the initramfs: the guest's init, and modules in the order in which it loads them."""
    numbered = {f"modules/{i}.ko": content for i, content in enumerate(modules)}
    return cpio({"init": compile_guest(), "modules": None, **numbered})
