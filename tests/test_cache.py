"""Compiled kernels on disk: found again, and never stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import balloonlab
from balloonlab.kernels.compile import digest

pytestmark = pytest.mark.once

PACKAGE = Path(balloonlab.__file__).parent
PROGRAM = """
import numpy as np
from balloonlab.kernels.bitmap import find_runs
runs = np.zeros((9, 2), np.int64)
n = find_runs(np.array([6], np.uint64), 0, runs)
print(n, runs[0].tolist(), *find_runs.stats.cache_hits.values())
"""


def run(copy, **settings):
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=copy,
        env=environment | {"PYTHONPATH": str(copy)} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


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


def test_the_digest_covers_every_kernel_source(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    first = digest(tmp_path)
    (tmp_path / "b.py").write_text("x = 2\n")
    assert digest(tmp_path) != first
