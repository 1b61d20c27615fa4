"""A Linux kernel to boot: given, installed, or downloaded as a Debian package."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from .errors import CaptureError, run

PACKAGE = "linux-image-cloud-amd64"
"""Debian's kernel for virtual machines; the name of whatever version is current."""

BALLOON, DISK = ("virtio_pci", "virtio_balloon"), ("virtio_blk", "ext4")
"""What the guest must have, as modules or built in: always, and where it has a disk."""

ONLY_IF_THERE = ("crc32c_generic",)
"""What ext4 asks modprobe for, which the guest has not; newer kernels have no such module."""

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
        raise CaptureError("kernel and modules must be given together: they belong to one version")
    given = Kernel(Path(kernel), Path(modules))
    if not given.image.is_file():
        raise CaptureError(f"kernel must be a file, got {os.fspath(kernel)!r}")
    if not given.modules.is_dir():
        raise CaptureError(f"modules must be a folder, got {os.fspath(modules)!r}")
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
    raise CaptureError(
        "downloaded kernels need a folder: set BALLOONLAB_CACHE, or HOME to an absolute path"
    )


def _here() -> Kernel | None:
    """Return the kernel that is installed, else one that was downloaded."""
    top = cache_folder()
    return _newest(BOOT, MODULES) or _newest(top / "boot", top / "lib" / "modules")


def _download() -> Kernel:
    """Download Debian's kernel package and unpack it into the cache; nothing is installed."""
    if problem := obstacle():
        raise CaptureError(problem)
    otherwise = f"else {GIVE_ONE}"
    listed = run("apt-cache", "depends", PACKAGE, advice=otherwise).decode()
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if not found:
        raise CaptureError(
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
    raise CaptureError(f"package {found[1]} holds no kernel image with modules: {GIVE_ONE}")


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
            raise CaptureError(f"modules={os.fspath(folder)!r} must hold the module {name}.ko")
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
    raise CaptureError(
        f"modules must be .ko, .ko.xz, .ko.gz or, with the program zstd, .ko.zst files, "
        f"got {path.name}: unpack it first"
    )
