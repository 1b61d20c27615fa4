"""What a decoder or a device can find wrong, counted by kind.

A fault vector is int64 of length ``N_FAULTS + 2``: one counter a kind, then the
kind and the position of the first fault (-1 for none): its byte in the message, or
the number of the range that `translate` refused.
"""

from __future__ import annotations

import numpy as np

from .compile import kernel

(BUFFER_LENGTH, COMMAND, DATA_LEN, BMAP_LEN, PAGE_SHIFT, RECORD_RANGE, OUTSIDE_RAM) = range(7)
N_FAULTS = 7
FIRST_KIND, FIRST_POSITION = N_FAULTS, N_FAULTS + 1

DESCRIPTIONS = (
    "the buffer's length is not a whole number of entries, or too short for its header",
    "the response header's cmd is not 0",
    "data_len reaches beyond the buffer, or is not a multiple of 8",
    "bmap_len is not a multiple of 8, or the bitmap reaches beyond data_len",
    "page_shift is under 12, or not 12 in a record with a bitmap",
    "the range ends beyond the 52-bit page numbers",
    "the range is not wholly inside the guest's RAM",
)


def no_faults() -> np.ndarray:
    """Make an empty fault vector."""
    faults = np.zeros(N_FAULTS + 2, np.int64)
    faults[FIRST_KIND:] = -1
    return faults


@kernel
def blame(faults, kind, position):
    """Count one fault of `kind`; remember where the first one was."""
    faults[kind] += 1
    if faults[FIRST_KIND] < 0:
        faults[FIRST_KIND] = kind
        faults[FIRST_POSITION] = position
