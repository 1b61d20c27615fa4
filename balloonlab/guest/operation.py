"""What one operation of the driver did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Operation:
    """What one inflation, deflation, migration or report did.

    Attributes
    ----------
    pages : numpy.ndarray of uint64, shape (n,)
        Pages sent, in the order in which they entered or left the balloon; of blocks the first
        page of each; of a migration the page that entered, then the one that left.
    negotiated_protocol : str
        How they were encoded: ``pfn`` where records could not be used.
    n_bitmaps : int
        Bitmaps that there was memory for; 0 where none was used.
    wall_ns : int
        Read at its two ends in the compiled code, apart from Python's threads.
    n_kicks, n_records : int
    wire_bytes : int
        A descriptor that names a block counts as 16.
    """

    pages: npt.NDArray[np.uint64]
    negotiated_protocol: str
    n_bitmaps: int
    wall_ns: int = 0
    n_kicks: int = 0
    wire_bytes: int = 0
    n_records: int = 0
