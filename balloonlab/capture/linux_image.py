"""A Linux kernel to boot: given, installed, or downloaded as a Debian package."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from .errors import CaptureError

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
    """Find a kernel: the one given, one installed here, or a downloaded Debian package.

    Parameters
    ----------
    kernel : path-like, optional
        Kernel image (``vmlinuz``).
    modules : path-like, optional
        Folder of its modules, as ``/lib/modules/RELEASE``.

    Raises
    ------
    CaptureError
        There is none; the message names what is missing.
    """
    if (kernel is None) != (modules is None):
        raise CaptureError("kernel and modules must be given together: they belong to one version")
    if kernel is not None and modules is not None:
        for name, path in (("kernel", Path(kernel)), ("modules", Path(modules))):
            if not (path.is_file() if name == "kernel" else path.is_dir()):
                what = "file" if name == "kernel" else "folder"
                raise CaptureError(f"{name} must be a {what}, got {os.fspath(path)!r}")
        return Kernel(Path(kernel), Path(modules))
    return _newest(BOOT, MODULES) or _cached() or _download()


def obstacle() -> str | None:
    """Return why no kernel can be found here, without downloading one; None where one can."""
    if _newest(BOOT, MODULES) or _cached() or _can_download():
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

    Raises
    ------
    CaptureError
        None of them is set to an absolute folder.
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


def _cached() -> Kernel | None:
    top = cache_folder()
    return _newest(top / "boot", top / "lib" / "modules")


def _can_download() -> bool:
    return all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb")))


def _download() -> Kernel:
    """Download Debian's kernel package and unpack it into the cache; nothing is installed."""
    problem = obstacle()
    if problem:
        raise CaptureError(problem)
    top = cache_folder()
    top.mkdir(parents=True, exist_ok=True)
    listed = _run("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if not found:
        raise CaptureError(
            f"apt-cache knows no package {PACKAGE}: run apt-get update first, or {GIVE_ONE}"
        )
    draft = top / f"draft-{os.getpid()}"
    draft.mkdir(exist_ok=True)
    try:
        _run("apt-get", "-q", "download", found[1], folder=draft)
        (package,) = draft.glob("*.deb")
        _run("dpkg-deb", "-x", str(package), str(draft))
        (release,) = (draft / "lib" / "modules").iterdir()
        for own in (Path("lib/modules") / release.name, Path("boot") / f"vmlinuz-{release.name}"):
            (top / own).parent.mkdir(parents=True, exist_ok=True)
            if not (top / own).exists():
                (draft / own).rename(top / own)  # the image last: with it all is there
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    kernel = _cached()
    if kernel is None:
        raise CaptureError(f"package {found[1]} holds no kernel image with modules: {GIVE_ONE}")
    return kernel


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise CaptureError(f"{' '.join(command[:3])} failed: {' '.join(last)}; else {GIVE_ONE}")
    return done.stdout


def read_modules(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    """Read modules and all that they depend on, in the order in which they are to be loaded.

    Parameters
    ----------
    folder : pathlib.Path
        ``lib/modules/RELEASE``.
    names : tuple of str
        Modules that the guest needs. Those built into the kernel are left out.

    Raises
    ------
    CaptureError
        One is neither there nor built in, or compressed in a way that is not known here.
    """
    files = {_module(path.name.split(".ko")[0]): path for path in folder.rglob("*.ko*")}
    listing = folder / "modules.builtin"
    listed = listing.read_text().split() if listing.exists() else []
    built_in = {_module(Path(line).stem) for line in listed}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name in built_in:
            return
        if name not in files and name in ONLY_IF_THERE:
            return
        if name not in files:
            raise CaptureError(f"modules={os.fspath(folder)!r} must hold the module {name}.ko")
        content = _read_module(files[name])
        for dependency in depends(content):
            load(dependency)
        loaded[name] = content

    for name in names:
        load(name)
    return list(loaded.values())


def depends(module: bytes) -> list[str]:
    """Return the modules that one needs first, from its ``.modinfo`` section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [_module(name) for name in found[1].decode().split(",") if name] if found else []


def _module(name: str) -> str:
    return name.replace("-", "_")


def _read_module(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst" and shutil.which("zstd"):
        done = subprocess.run(["zstd", "-dc"], input=content, capture_output=True, check=True)
        return done.stdout
    if path.suffix == ".ko":
        return content
    raise CaptureError(
        f"modules must be .ko, .ko.xz, .ko.gz or, with the program zstd, .ko.zst files, "
        f"got {path.name}: unpack it first"
    )
