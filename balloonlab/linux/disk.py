"""A guest's disk: a file with an empty ext4."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..sizes import MIB
from .errors import GuestError, run

DISK_BYTES = 64 * MIB
"""Room for a file system; the guest's only file is a hole."""


def make_disk(folder: Path) -> Path:
    """Make a disk in a folder; return its path."""
    sbin = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    mke2fs = shutil.which("mke2fs", path=sbin)
    if mke2fs is None:
        raise GuestError("a disk for the guest needs mke2fs (Debian: apt-get install e2fsprogs)")
    image = folder / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=0"]
    run(mke2fs, *options, str(image), advice="the guest's disk needs an ext4 of e2fsprogs")
    return image
