"""What QEMU's balloon device speaks."""

from __future__ import annotations

from ..guest import REPORTING as REPORTING
from ..kernels.buddy import N_ORDERS

DISCARDS = {"pfn": "page", REPORTING: "range"}
"""The protocols, and how QEMU applies each."""

LARGEST_ORDER = N_ORDERS - 1
PAGEBLOCK_ORDER = 9
"""Linux reports free blocks of this order and up: 2 MiB (``pageblock_order``)."""
