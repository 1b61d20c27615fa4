"""A Linux kernel to boot: given, installed, or downloaded as a Debian package."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from ..linux.errors import GuestError, run

PACKAGE = "linux-image-cloud-amd64"
"""Debian's kernel for virtual machines; the name of whatever version is current."""

BALLOON, DISK = ("virtio_pci", "virtio_balloon"), ("virtio_blk", "ext4")
"""What the guest must have, as modules or built in: always, and where it has a disk."""


BOOT, MODULES = Path("/boot"), Path("/lib/modules")

GIVE_ONE = "give one with --kernel and --modules (kernel= and modules=)"


class Kernel(NamedTuple):
    """A kernel image, and the folder ``lib/modules/RELEASE`` of its modules."""

    image: Path
    modules: Path


def find(kernel: str | os.PathLike[str] | None, modules: str | os.PathLike[str] | None) -> Kernel:
    """Find a kernel: the one given, one installed here, or a downloaded Debian package."""
    if kernel is None and modules is None:
        return _here() or _download()
    if kernel is None or modules is None:
        raise GuestError("kernel and modules must be given together: they belong to one version")
    given = Kernel(Path(kernel), Path(modules))
    if not given.image.is_file():
        raise GuestError(f"kernel must be a file, got {os.fspath(kernel)!r}")
    if not given.modules.is_dir():
        raise GuestError(f"modules must be a folder, got {os.fspath(modules)!r}")
    return given


def obstacle() -> str | None:
    """Return why no kernel can be found here, without downloading one; None where one can."""
    tools = map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))
    if _here() or all(tools):
        return None
    return (
        f"no Linux kernel with modules is installed ({BOOT}, {MODULES}), and Debian's apt-get and "
        f"dpkg-deb, which would download one, are not here: {GIVE_ONE}"
    )


def _newest(boot: Path, modules: Path) -> Kernel | None:
    """Return the newest readable kernel of a folder that has its modules, too."""

    def version(image: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", image.name)]

    for image in sorted(boot.glob("vmlinuz-*"), key=version, reverse=True):
        own = modules / image.name.removeprefix("vmlinuz-")
        if own.is_dir() and os.access(image, os.R_OK):
            return Kernel(image, own)
    return None


def cache_folder() -> Path:
    """Return where downloaded kernels are kept.

    ``BALLOONLAB_CACHE``, or ``balloonlab`` in ``XDG_CACHE_HOME`` or ``~/.cache``. Relative paths
    in the latter two are ignored (XDG Base Directory Specification).
    """
    if own := os.environ.get("BALLOONLAB_CACHE"):
        return Path(own).absolute() / "kernels"
    xdg, home = (os.environ.get(name, "") for name in ("XDG_CACHE_HOME", "HOME"))
    for folder in (Path(xdg), Path(home, ".cache")):
        if folder.is_absolute():
            return folder / "balloonlab" / "kernels"
    raise GuestError(
        "downloaded kernels need a folder: set BALLOONLAB_CACHE, or HOME to an absolute path"
    )


def _here() -> Kernel | None:
    """Return the kernel that is installed, else one that was downloaded."""
    top = cache_folder()
    return _newest(BOOT, MODULES) or _newest(top / "boot", top / "lib" / "modules")


def _download() -> Kernel:
    """Download Debian's kernel package and unpack it into the cache; nothing is installed."""
    if problem := obstacle():
        raise GuestError(problem)
    otherwise = f"else {GIVE_ONE}"
    listed = run("apt-cache", "depends", PACKAGE, advice=otherwise).decode()
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if not found:
        raise GuestError(
            f"apt-cache knows no package {PACKAGE}: run apt-get update first, or {GIVE_ONE}"
        )
    top = cache_folder()
    draft = top / f"draft-{os.getpid()}"
    draft.mkdir(parents=True, exist_ok=True)
    try:
        run("apt-get", "-q", "download", found[1], folder=draft, advice=otherwise)
        (package,) = draft.glob("*.deb")
        run("dpkg-deb", "-x", str(package), str(draft), advice=otherwise)
        (release,) = (draft / "lib" / "modules").iterdir()
        for own in (Path("lib/modules") / release.name, Path("boot") / f"vmlinuz-{release.name}"):
            (top / own).parent.mkdir(parents=True, exist_ok=True)
            if not (top / own).exists():
                (draft / own).rename(top / own)  # the image last: with it all is there
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if kernel := _here():
        return kernel
    raise GuestError(f"package {found[1]} holds no kernel image with modules: {GIVE_ONE}")
