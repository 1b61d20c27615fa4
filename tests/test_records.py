"""Records of bitmap-v4, read out of a message: each page once, the bytes all accounted for."""

import numpy as np
import pytest
from hypothesis import given

import balloonlab as bl

from . import naive
from .strategies import few_words

RAGGED = range(100, 500)


def pages_of(records):
    """Pages of each record in turn, by the plain reading of its bits."""
    for row in records.itertuples():
        bits = int.from_bytes(row.bitmap, "little")
        block = range(row.start_pfn, row.start_pfn + row.span_pages)
        yield [page for i, page in enumerate(block) if row.kind == "block" or bits >> i & 1]


@given(pages=few_words())
def test_records_hold_each_page_once_and_fill_the_message(pages):
    stream = bl.wire.encode(pages, "bitmap-v4")
    records = bl.wire.records(stream)
    assert sorted(page for part in pages_of(records) for page in part) == sorted(pages)
    assert records["n_pages"].tolist() == [len(part) for part in pages_of(records)]
    assert records["wire_bytes"].sum() + 8 * len(stream) == sum(map(len, stream))
    assert set(records["kind"] + records["wire_bytes"].astype(str)) <= {"word16", "block8"}


def test_a_ragged_run_is_head_word_then_tail_word_then_blocks():
    records = bl.wire.records(bl.wire.encode(RAGGED, "bitmap-v4"))
    assert records["kind"].tolist() == ["word", "word", "block", "block"]
    assert records["start_pfn"].tolist() == [64, 448, 128, 384]
    assert records["n_pages"].tolist() == [28, 52, 256, 64]


def test_records_carry_the_number_of_their_buffer():
    pages = np.arange(0, 700_000, 64)
    stream = bl.wire.encode(pages, "bitmap-v4")
    records = bl.wire.records(iter(stream))
    assert records["kick"].unique().tolist() == list(range(1, len(stream) + 1))
    assert len(stream) > 1
    assert records["start_pfn"].tolist() == pages.tolist()


def test_records_of_several_words_are_read():
    """The width of bmap_len admits 7 words; the driver as posted sends one."""
    bitmap = bytes(range(24))
    data = naive.head(640, 12, 24) + bitmap + naive.head(7, 13, 0)
    records = bl.wire.records([(len(data) << 32).to_bytes(8, "little") + data])
    assert records["span_pages"].tolist() == [192, 2]
    assert records["wire_bytes"].tolist() == [32, 8]
    assert records["bitmap"].tolist() == [bitmap, b""]
    assert list(pages_of(records))[1] == [7, 8]


def test_a_broken_buffer_is_refused_with_its_rule():
    (buffer,) = bl.wire.encode(RAGGED, "bitmap-v4")
    with pytest.raises(ValueError, match=r"buffer 0 .* data_len"):
        bl.wire.records([buffer[:-1]])
