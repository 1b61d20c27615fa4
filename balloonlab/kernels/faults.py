"""What a decoder or a device can find wrong, counted by kind and logged one by one.

A fault vector is int64: one counter a kind, the number of the message at hand, and
then a log of (message, kind, position) for the first `LOG_ROWS` bad records. The
position is a record's byte in the message, or the number of the range that
`translate` refused or passed pages of over.
"""

from __future__ import annotations

import numpy as np

from .compile import kernel

(
    BUFFER_LENGTH,
    COMMAND,
    DATA_LEN,
    BMAP_LEN,
    PAGE_SHIFT,
    RECORD_RANGE,
    OUTSIDE_RAM,
    REPEATED,
) = range(8)
N_FAULTS = 8
MESSAGE = N_FAULTS
LOG = MESSAGE + 1
LOG_ROWS = 64  # a hostile guest must not fill the host's memory with its own log

DESCRIPTIONS = (
    "the buffer's length is not a whole number of entries, or too short for its header",
    "the response header's cmd is not 0",
    "data_len reaches beyond the buffer, or is not a multiple of 8",
    "bmap_len is not a multiple of 8, or the bitmap reaches beyond data_len",
    "page_shift is under 12, or not 12 in a record with a bitmap",
    "the range ends beyond the 52-bit page numbers",
    "the range is not wholly inside the guest's RAM",
    "the range repeats pages: they are in the balloon already, or not in it to leave it",
)


def no_faults() -> np.ndarray:
    """Make an empty fault vector."""
    return np.zeros(LOG + 3 * LOG_ROWS, np.int64)


def logged(faults: np.ndarray) -> np.ndarray:
    """Rows of the log: (message, kind, position), shape (n, 3)."""
    n = min(int(faults[:N_FAULTS].sum()), LOG_ROWS)
    return faults[LOG : LOG + 3 * n].reshape(n, 3)


@kernel
def record_fault(faults, kind, position):
    """Count one fault of `kind` and log where it was."""
    row = faults[:N_FAULTS].sum()
    faults[kind] += 1
    if row < LOG_ROWS:
        at = LOG + 3 * row
        faults[at] = faults[MESSAGE]
        faults[at + 1] = kind
        faults[at + 2] = position
