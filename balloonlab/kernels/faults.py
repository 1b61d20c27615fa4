"""What a decoder or a device can find wrong, counted by kind and logged one by one."""

from __future__ import annotations

import numpy as np

from .compile import kernel

BUFFER_LENGTH, COMMAND, DATA_LEN, BMAP_LEN, PAGE_SHIFT, RECORD_RANGE = range(6)
OUTSIDE_RAM, REPEATED, BLOCK_ALIGNMENT, RECORD_COUNT, KIND, OWN_RULES = range(6, 12)
N_FAULTS = 12
LOG_ROWS = 64  # a hostile guest must not fill the host's memory with its own log

DESCRIPTIONS = (
    "the buffer's length is not a whole number of entries, or too short for its header",
    "the response header's cmd is not 0",
    "data_len reaches beyond the buffer, or is not a multiple of 8",
    "bmap_len is not a multiple of 8, or the bitmap reaches beyond data_len",
    "page_shift is under 12, or not 12 in a record with a bitmap",
    "the range is empty, or ends beyond the page numbers of the format",
    "the range is not wholly inside the guest's RAM",
    "the range repeats pages: they are in the balloon already, or not in it to leave it",
    "a block is empty, or does not begin and end with a page",
    "the number of records is not that of the message",
    "a segment is of no kind, or its head has bits that mean nothing",
    "the format's own decoder refuses the message",
)

FAULTS = np.dtype(
    [
        ("counts", np.int64, N_FAULTS),  # by kind
        ("message", np.int64),  # number of the message at hand, from 1
        ("log", np.int64, (LOG_ROWS, 3)),  # message, kind and position of the first ones
    ]
)
"""Bad records of a device, or of one decoded stream: an array of shape (1,)."""


def logged(faults: np.ndarray) -> np.ndarray:
    """Return the rows of the log that are filled: (message, kind, position), shape (n, 3)."""
    return faults[0]["log"][: min(int(faults[0]["counts"].sum()), LOG_ROWS)]


@kernel
def record_fault(faults, kind, position):
    """Count one fault of `kind` and log where it was.

    The position is a record's byte in the message, or the number of the range that `translate`
    refused or skipped pages of.
    """
    counts, log = faults[0]["counts"], faults[0]["log"]
    row = counts.sum()
    counts[kind] += 1
    if row < LOG_ROWS:
        log[row, 0] = faults[0]["message"]
        log[row, 1] = kind
        log[row, 2] = position
