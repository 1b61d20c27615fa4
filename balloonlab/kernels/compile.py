"""Compile kernels, and cache them so that a stale one is never served.

numba keys a cached function by the text of its own file. A kernel that calls
one in another file is then served stale after that other file was edited (numba
issues 8359 and 9483), and settings such as ``NUMBA_BOUNDSCHECK`` are no part of
the key either. Here all kernels share one cache folder whose name is a digest of
every source file in ``kernels/``, the compiler's versions and its settings: any
change gives a new, empty folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import config, njit

PREFIX = "balloonlab-kernels-"
NAME = re.compile(PREFIX + "[0-9a-f]{16}")

KEPT_CACHES = 4
"""Caches of older sources or other settings left beside the current one."""


def digest(folder: Path) -> str:
    """Name everything that compiled code depends on, as 16 hex digits.

    Parameters
    ----------
    folder : pathlib.Path
        The folder that holds the kernels' sources.
    """
    state = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(folder.glob("*.py")):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name in sorted(os.environ):
        if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR":
            state.update(f"{name}={os.environ[name]}\0".encode())
    return state.hexdigest()[:16]


def _roots() -> Iterator[Path]:
    """Places for compiled code, the best first."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__"
    try:
        yield Path.home() / ".cache" / "balloonlab"
    except RuntimeError:  # no HOME and no entry in the password file, as in some containers
        return


def _cache_folder() -> Path | None:
    """Make this digest's folder where it can be written; None where it cannot."""
    name = PREFIX + digest(Path(__file__).parent)
    for root in _roots():
        folder = root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            _forget_old(root, keep=folder)
            return folder
    return None


def _forget_old(root: Path, keep: Path) -> None:
    """Delete the caches used longest ago; one that is in use is only compiled anew."""
    found = []
    for path in root.glob(f"{PREFIX}*"):
        if path != keep and NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process was faster
                found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[:-KEPT_CACHES]:
        shutil.rmtree(path, ignore_errors=True)


_CACHE = None if config.DISABLE_JIT else _cache_folder()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on first call, without the GIL, cached by `digest`.

    Where no cache folder can be written the function is compiled anew in each
    process. With ``NUMBA_DISABLE_JIT=1`` it stays plain Python.
    """
    if _CACHE is None:
        return njit(nogil=True)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_CACHE)
    try:
        return njit(nogil=True, cache=True)(function)
    finally:
        config.CACHE_DIR = before
