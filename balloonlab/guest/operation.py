"""What one operation of the driver did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Operation:
    """What one inflation, deflation, migration or report did."""

    pages: npt.NDArray[np.uint64]
    """Pages sent, in the order in which they entered or left the balloon; of blocks the first
    page of each; of a migration the page that entered, then the one that left."""
    negotiated_protocol: str  # how they were encoded: "pfn" where records could not be used
    n_bitmaps: int  # that there was memory for; 0 where none was used
    wall_ns: int = 0  # read at its two ends in the compiled code, apart from Python's threads
    n_kicks: int = 0
    wire_bytes: int = 0  # a descriptor that names a block counts as 16
    n_records: int = 0
