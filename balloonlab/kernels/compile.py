"""Compile kernels, and cache them so that a stale one is never served.

numba keys a cached function by the text of its own file. A kernel that calls
one in another file is then served stale after that other file was edited (numba
issues 8359 and 9483), and settings such as ``NUMBA_BOUNDSCHECK`` are no part of
the key either. Here all kernels share one cache folder whose name is a digest of
every source file in ``kernels/``, the compiler's versions and its settings: any
change gives a new, empty folder. A cache that cannot be read or written costs
time, never a run: the kernels are compiled anew, and a warning names the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import config, njit, types
from numba.core.caching import FunctionCache

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
    """Places for compiled code, the best first; none of the user's lies in the working folder."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__"
    for user in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(user):  # without HOME, "~" may stay as it is
            yield Path(user) / "balloonlab"
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


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one function, which compiles anew where numba would fail."""

    writable = True

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None where it is not there or damaged."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling what is damaged may raise anything
            _warn_once(f"damaged, so its kernels are compiled anew ({error!r})")
            self._write(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled function where the disk takes it."""
        self._write(super().save_overload, sig, data)

    def _write(self, write: Callable[..., None], *args: Any) -> None:
        if _KernelCache.writable:
            try:
                write(*args)
            except OSError as error:
                _KernelCache.writable = False
                _warn_once(f"not writable ({error}): {_UNCACHED}")


_UNCACHED = "each process compiles its kernels anew, which takes a minute and more"
_warned: set[str] = set()


def _warn_once(trouble: str) -> None:
    """Warn of the cache once in a process for each kind of trouble, not for each kernel."""
    kind = trouble.partition(" ")[0]
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(f"the kernel cache in {_CACHE} is {trouble}", RuntimeWarning, stacklevel=2)


_CACHE = None if config.DISABLE_JIT else _cache_folder()
if _CACHE is None and not config.DISABLE_JIT:
    _places = " or ".join(map(str, _roots()))
    _advice = f"NUMBA_CACHE_DIR may name a folder; in {_places} nothing can be written"
    warnings.warn(f"no kernel cache: {_UNCACHED}. {_advice}", RuntimeWarning, stacklevel=2)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on first call, without the GIL, cached by `digest`.

    Where no cache folder can be written the function is compiled anew in each
    process. With ``NUMBA_DISABLE_JIT=1`` it stays plain Python.

    Kernels that call it compile it without what Python needs to call it, and once for all constant
    arguments: 70 s of processor time instead of 94 for all that a first inflation runs. None may
    allocate or return an array, which numba refuses to compile: so no references are counted. That
    saves a quarter of what is left to compile, and of decoding 256 page numbers a third.
    """
    options = {"nogil": True, "_nrt": False}
    compiled = njit(**options)(function)
    if config.DISABLE_JIT:
        return compiled
    within = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(function)

    def template_within(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        plain = {name: types.unliteral(kind) for name, kind in kws.items()}
        return within.get_call_template(tuple(map(types.unliteral, args)), plain)

    compiled.get_call_template, compiled.get_overload = template_within, within.get_overload
    if _CACHE is not None:
        _keep(compiled, _CACHE)
        _keep(within, _CACHE / "within")
    return compiled


def _keep(compiled: Any, folder: Path) -> None:
    """Cache what a function is compiled to in a folder, if there is a place."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        cache = _KernelCache(compiled.py_func)
    except RuntimeError:  # numba found no place for it: the folder is gone or the disk is full
        return
    finally:
        config.CACHE_DIR = before
    if Path(cache.cache_path).is_relative_to(folder):  # another place would not know the digest
        compiled._cache = cache
