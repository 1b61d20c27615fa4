"""The check of every byte: what it compares, that it passes here, and that it can fail."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import balloonlab as bl
from balloonlab.cli.commands import app
from balloonlab.host.backing import DONTNEED
from balloonlab.kernels import contents as kernels
from balloonlab.kernels import device, doorbell, vring
from balloonlab.kernels.discard import discard
from balloonlab.selftest.contents import combinations

from . import naive
from .conftest import INTERPRETED

N_PAGES = 6
SIZE = "512KiB" if INTERPRETED else "16MiB"


@given(
    inside=st.sets(st.integers(0, N_PAGES - 1)),
    emptied=st.sets(st.integers(0, N_PAGES - 1)),
    spoilt=st.lists(st.tuples(st.integers(0, N_PAGES * 4096 - 1), st.integers(1, 255)), max_size=4),
)
def test_compare_does_what_its_twin_does(inside, emptied, spoilt):
    words = np.zeros(N_PAGES * 512, np.uint64)
    kernels.fill(words, 0, N_PAGES)
    memory = naive.filled(N_PAGES)
    assert words.tobytes() == bytes(memory)
    for page in emptied:
        memory[4096 * page : 4096 * (page + 1)] = bytes(4096)
    for at, change in spoilt:
        memory[at] ^= change
    words = np.frombuffer(bytes(memory), np.uint64)
    found = np.zeros(4, np.int64)
    bits = np.array(naive.bitmap_words(inside, 0, 1), np.uint64)
    kernels.compare(words, 0, 2, bits, found)
    kernels.compare(words, 2, N_PAGES - 2, bits, found)
    assert found.tolist() == naive.compare(memory, inside)


@pytest.mark.once
def test_every_byte_is_kept_or_gone_through_every_protocol():
    rows = bl.selftest.verify(SIZE, progress=False)
    assert len(rows) == 2 * len(combinations())
    assert not rows[["changed_bytes", "nonzero_bytes"]].any(axis=None)
    half = bl.sizes.parse_size(SIZE) // 2
    assert (rows[["kept_bytes", "ballooned_bytes"]] == half).all(axis=None)
    assert rows["operation"].tolist() == ["inflate", "deflate"] * len(combinations())


ALL_PAGES = np.array([(0, N_PAGES * 4096)], np.int64)


@pytest.mark.once
@pytest.mark.parametrize("column", ["changed_bytes", "nonzero_bytes"])
def test_a_host_that_discards_too_much_or_nothing_is_found_out(monkeypatch, tmp_path, column):
    def serve(queue, memory, state, log):
        used = 0
        while True:
            os.eventfd_read(int(queue.doorbell.kick))
            if queue.ring.control[vring.STOP]:
                return
            if column == "changed_bytes":
                discard(memory, ALL_PAGES, DONTNEED)
                used += device.answer(queue, memory, state, used, log)
                device.flush(state, memory, 0, log)
            else:
                vring.push_used(queue.ring, 0, used)  # done, says the device
                doorbell.call(queue.doorbell, queue.ring, log.cell)
                used += 1

    monkeypatch.setattr(device, "serve", serve)
    rows = bl.selftest.verify(4096 * N_PAGES, progress=False)
    assert (rows[column] > 0).all()
    out = ["--memory", str(4096 * N_PAGES), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["verify", *out])
    assert result.exit_code == 1
    assert (tmp_path / "contents.csv").exists()
    assert (tmp_path / "meta.json").exists()


def test_the_command_refuses_what_does_not_fit():
    result = CliRunner().invoke(app, ["verify", "--memory", "100TiB"])
    assert result.exit_code == 2
    assert "would fit" in result.stderr


def test_refusals():
    with pytest.raises(ValueError, match="multiple of the 4 KiB page"):
        bl.selftest.verify(4097)
    with pytest.raises(ValueError, match="at least two 4 KiB pages"):
        bl.selftest.verify("4KiB")
