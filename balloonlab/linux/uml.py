"""User-Mode Linux: a whole Linux as an ordinary process, found, booted, and always ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple, Self

from ..sizes import MIB, format_size
from . import initramfs, supervisor
from .disk import make_disk
from .errors import GuestError
from .modules import read_modules
from .wire import Wire, explained

PROGRAM, PACKAGE = "linux.uml", "user-mode-linux"
MODULES = Path("/usr/lib/uml/modules")
MODULE = "virtio_balloon"

SHM = Path("/dev/shm")
"""Where a guest's memory is a file, and everything else of it: files that are never on a disk."""

BALLOON_ID = 5
"""Of virtio: what stands behind the socket."""

PATIENCE_S = 60.0
"""Seconds of silence after which a guest counts as hung."""

ROOM_BYTES = 64 * MIB
"""What a guest's files take in `SHM` besides its memory."""


class Linux(NamedTuple):
    """A User-Mode Linux, and the folder ``lib/modules/RELEASE`` of its modules."""

    program: str
    modules: Path
    release: str


def find(
    program: str | os.PathLike[str] | None = None, modules: str | os.PathLike[str] | None = None
) -> Linux:
    """Find User-Mode Linux and its modules.

    Parameters
    ----------
    program : path-like, optional
        By default ``linux.uml`` on the search path.
    modules : path-like, optional
        Folder of its modules; by default that of its release in ``/usr/lib/uml/modules``.

    Returns
    -------
    Linux

    Raises
    ------
    GuestError
        It is missing, is no Linux, or has no modules; the message says what to do.
    """
    name = PROGRAM if program is None else os.fspath(program)
    path = shutil.which(name)
    if path is None:
        raise GuestError(
            f"User-Mode Linux, {name}, is not here: install it (Debian and Ubuntu: apt-get install "
            f"{PACKAGE}), or name it and its modules (--linux PATH --modules PATH)"
        )
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=True
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise GuestError(f"{path} --version failed ({error}): is it User-Mode Linux?") from None
    if len(said) != 1 or not said[0][0].isdecimal():
        raise GuestError(f"{path} --version must name a release, it says {' '.join(said)[:60]!r}")
    folder = MODULES / said[0] if modules is None else Path(modules)
    if not folder.is_dir():
        raise GuestError(
            f"the modules of {path} are not in {folder}: install the whole package ({PACKAGE}), or "
            "name their folder lib/modules/RELEASE (--modules PATH)"
        )
    return Linux(path, folder, said[0])


def missing(
    program: str | os.PathLike[str] | None = None, modules: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return what a Linux guest needs and this machine lacks; empty where all is there."""
    lacks = []
    try:
        find(program, modules)
    except GuestError as error:
        lacks.append(str(error))
    if initramfs.compiler() is None:
        lacks.append("a C compiler for its only program (Debian: apt-get install gcc libc6-dev)")
    if not os.access(SHM, os.W_OK):
        lacks.append(f"{SHM}, where its memory is a file: mount a tmpfs there")
    return lacks


def check_room(n_bytes: int) -> None:
    """Refuse a guest whose memory does not fit (MemoryError); its files are in `SHM`."""
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    if n_bytes + ROOM_BYTES > free:
        raise MemoryError(
            f"a Linux guest needs {format_size(n_bytes + ROOM_BYTES)} in {SHM}, which has "
            f"{format_size(free)}: choose a smaller memory=, or enlarge it (as root: mount -o "
            f"remount,size=... {SHM}; of a container: --shm-size)"
        )


@lru_cache
def _initramfs(linux: Linux) -> bytes:
    return initramfs.build(read_modules(linux.modules, (MODULE,)))


class Uml:
    """A booted User-Mode Linux; ends with its context, and with this process however that ends.

    Parameters
    ----------
    linux : Linux
        As `find` returns it.
    memory_bytes : int
        The guest's memory, whole MiB: a file in `SHM` that grows as the guest writes.
    balloon : bool
        Whether a balloon device is at `socket`, where somebody must listen before `boot`.
    disk : bool
        Whether the guest has a disk with an empty ext4.
    patience_s : float
        Seconds of silence after which the guest counts as hung.

    Attributes
    ----------
    folder, socket : pathlib.Path
        Its files, which go with it; the balloon's socket among them.
    wire : Wire
        To its only program, which loads the balloon's driver at the command ``load``.

    Raises
    ------
    GuestError
        Something is missing, or the guest ended or hung; with the end of its console.
    """

    def __init__(
        self, linux: Linux, memory_bytes: int, balloon: bool = True, disk: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self._linux, self._memory_bytes = linux, memory_bytes
        self._balloon, self._patience_s = balloon, patience_s
        contents = _initramfs(linux)
        self.wire: Wire | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._open = ExitStack()
        try:
            self.folder = Path(mkdtemp(prefix="balloonlab-", dir=SHM))
        except OSError as error:
            raise GuestError(f"a Linux guest has its files in {SHM}: {error}") from None
        self._open.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.socket = self.folder / "balloon"
        try:
            (self.folder / "initramfs").write_bytes(contents)
            self._disk = [f"ubd0={make_disk(self.folder)}"] if disk else []
        except BaseException:
            self.close()
            raise

    def boot(self) -> Wire:
        """Start it, and wait until its program is up."""
        self._console = self._open.enter_context(os.fdopen(os.memfd_create("console"), "r+b"))
        ours, theirs = socket.socketpair()
        source, lifeline = os.pipe()
        self._open.callback(os.close, lifeline)
        with theirs, os.fdopen(source, "rb"):
            self.wire = Wire(ours, self._patience_s, "Linux", self.explained)
            self._open.callback(self.wire.close)
            inherited = (source, theirs.fileno())
            command = [sys.executable, "-I", "-S", supervisor.__file__, str(source)]
            command += [str(self.folder), self._linux.program, *self._arguments(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                env={**os.environ, "TMPDIR": str(self.folder)},
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
            self._open.callback(self._end, lifeline)
        self.wire.expect("ready")
        return self.wire

    def _arguments(self, port: int) -> list[str]:
        """Return its command line; `port` is its second serial port."""
        device = [f"virtio_uml.device={self.socket}:{BALLOON_ID}"] if self._balloon else []
        return [
            f"mem={self._memory_bytes // MIB}M",
            f"initrd={self.folder / 'initramfs'}",
            *("rdinit=/init", "late=1", "con=null", "con0=null,fd:1", "console=tty0"),
            f"ssl1=fd:{port},fd:{port}",
            *(f"uml_dir={self.folder / 'uml'}", "umid=guest"),
            *self._disk,
            *device,
        ]

    def explained(self, what: str) -> GuestError:
        """Return an error with the end of the guest's console."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        self._console.seek(0)
        return explained(what, "", self._console.read().decode("utf-8", "replace"))

    def _end(self, lifeline: int) -> None:
        """Close the lifeline, and wait for the supervisor, which ends all."""
        assert self._process is not None
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, lifeline, inheritable=False)  # closes it; its number stays taken
        os.close(null)
        self._process.wait()

    def close(self) -> None:
        """End the guest; nothing is left of it."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
