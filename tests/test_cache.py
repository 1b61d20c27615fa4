"""Compiled kernels on disk: found again, and never stale."""

import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numba import config
from numba.core.errors import TypingError

import balloonlab
from balloonlab.kernels.compile import digest, kernel

pytestmark = pytest.mark.once

PACKAGE = Path(balloonlab.__file__).parent
PROGRAM = """
import numpy as np
from balloonlab.kernels.bitmap import find_runs
runs = np.zeros((9, 2), np.int64)
n = find_runs(np.array([6], np.uint64), 0, runs)
print(n, runs[0].tolist(), *find_runs.stats.cache_hits.values())
"""


def start(copy, limit=None, **settings):
    """Run the program; `limit` is the most bytes that it can write into a file."""
    elsewhere = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in elsewhere}
    bound = None
    if limit is not None:
        bound = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=copy,
        env=environment | {"PYTHONPATH": str(copy)} | settings,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=bound,
    )


def run(copy, **settings):
    return start(copy, **settings).stdout.strip()


def close_the_package(copy):
    """Put a file where the first cache folder would be made; permissions would not stop root."""
    (copy / "balloonlab" / "kernels" / "__pycache__").write_text("")


@pytest.fixture
def copy(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "balloonlab", ignore=ignore)
    return tmp_path


def test_an_edited_callee_in_another_file_is_noticed(copy):
    assert run(copy) == "1 [1, 2]"
    assert run(copy) == "1 [1, 2] 1", "the second process should find compiled code"
    callee = copy / "balloonlab" / "kernels" / "intrinsics.py"
    text = callee.read_text()
    edited = text.replace("builder.cttz(args[0], cgutils.false_bit)", "builder.ctpop(args[0])")
    assert edited != text
    callee.write_text(edited)
    assert run(copy) == "1 [1, 0]", "popcount for trailing zeros: start and end are 1"
    callee.write_text(text)
    assert run(copy) == "1 [1, 2] 1", "the old source finds its old code"


def test_settings_have_code_of_their_own(copy):
    assert run(copy) == "1 [1, 2]"
    assert run(copy, NUMBA_BOUNDSCHECK="1") == "1 [1, 2]"
    assert run(copy, NUMBA_BOUNDSCHECK="1") == "1 [1, 2] 1"


def test_code_goes_where_the_user_wants_it(copy, tmp_path):
    folder = tmp_path / "cache"
    run(copy, NUMBA_CACHE_DIR=str(folder))
    assert list(folder.glob("balloonlab-kernels-*/**/*.nbi"))
    assert not list((copy / "balloonlab").glob("kernels/__pycache__/balloonlab-kernels-*/**/*.nbi"))


def test_old_code_is_forgotten(copy):
    caches = copy / "balloonlab" / "kernels" / "__pycache__"
    mine = caches / "balloonlab-kernels-of-my-thesis"
    mine.mkdir(parents=True)
    for number in range(9):
        (caches / f"balloonlab-kernels-{number:016x}").mkdir()
    run(copy)
    assert mine.exists()
    assert len(list(caches.glob("balloonlab-kernels-*"))) == 6


def test_a_user_without_a_home_can_import(copy):
    assert run(copy, HOME="") == "1 [1, 2]"


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_cache_is_compiled_anew(copy, suffix):
    run(copy)
    damaged = list(copy.glob(f"**/balloonlab-kernels-*/**/*.{suffix}"))
    assert len(damaged) > 1
    for path in damaged:
        os.truncate(path, path.stat().st_size // 2)
    mended = start(copy)
    assert mended.stdout == "1 [1, 2]\n"
    assert mended.stderr.count("RuntimeWarning: the kernel cache in") == 1
    assert str(copy / "balloonlab" / "kernels" / "__pycache__") in mended.stderr
    again = start(copy)
    assert again.stdout == "1 [1, 2] 1\n", "the damaged files were replaced"
    assert not again.stderr


@pytest.mark.parametrize("limit", [0, 4096])
def test_a_full_disk_costs_the_cache_only(copy, limit):
    done = start(copy, limit=limit)
    assert done.stdout == "1 [1, 2]\n"
    assert done.stderr.count("RuntimeWarning: the kernel cache in") == 1
    assert "each process compiles its kernels anew" in done.stderr


def test_the_cache_is_where_xdg_has_it(copy, tmp_path):
    close_the_package(copy)
    folder = tmp_path / "xdg"
    run(copy, XDG_CACHE_HOME=str(folder), HOME=str(tmp_path / "home"))
    assert list((folder / "balloonlab").glob("balloonlab-kernels-*/**/*.nbi"))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
def test_the_working_folder_never_holds_the_cache(copy, name):
    close_the_package(copy)
    before = sorted(path for path in copy.rglob("*") if "__pycache__" not in path.parts)
    run(copy, **{"HOME": "/dev/null", name: "."})
    assert sorted(path for path in copy.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_missing_cache_is_said_once(copy):
    close_the_package(copy)
    done = start(copy, HOME="/dev/null")
    assert done.stdout == "1 [1, 2]\n"
    assert done.stderr.count("RuntimeWarning: no kernel cache: each process compiles") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr


def test_the_digest_covers_every_kernel_source(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    first = digest(tmp_path)
    (tmp_path / "b.py").write_text("x = 2\n")
    assert digest(tmp_path) != first


@pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled (NUMBA_DISABLE_JIT=1)")
@pytest.mark.parametrize("function", [lambda n: np.zeros(n).sum(), lambda n: str(n) == "1"])
def test_a_kernel_that_allocates_is_not_compiled(function):
    with pytest.raises(TypingError):
        kernel(function)(1)
