"""The kernel's modules that a guest loads, and what they depend on."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
from pathlib import Path

from .errors import GuestError, run

ONLY_IF_THERE = ("crc32c_generic",)
"""What ext4 asks modprobe for, which the guest has not; newer kernels have no such module."""


def read_modules(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    """Read modules and all that they depend on, in the order in which they are to be loaded.

    Of ``lib/modules/RELEASE``. Those built into the kernel are left out.
    """
    files = {_module(path.name.split(".ko")[0]): path for path in folder.rglob("*.ko*")}
    listing = folder / "modules.builtin"
    listed = listing.read_text().split() if listing.exists() else []
    built_in = {_module(Path(line).stem) for line in listed}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name in built_in:
            return
        if name not in files:
            if name in ONLY_IF_THERE:
                return
            raise GuestError(f"modules={os.fspath(folder)!r} must hold the module {name}.ko")
        content = _read_module(files[name])
        needed = re.search(rb"\0depends=([^\0]*)\0", content)  # in the section .modinfo
        for dependency in needed[1].decode().split(",") if needed else []:
            if dependency:
                load(_module(dependency))
        loaded[name] = content

    for name in names:
        load(name)
    return list(loaded.values())


def _module(name: str) -> str:
    return name.replace("-", "_")


def _read_module(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".ko":
        return content
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst" and shutil.which("zstd"):
        return run("zstd", "-dc", stdin=content, advice=f"{path} must be a .zst file")
    raise GuestError(
        f"modules must be .ko, .ko.xz, .ko.gz or, with the program zstd, .ko.zst files, "
        f"got {path.name}: unpack it first"
    )
