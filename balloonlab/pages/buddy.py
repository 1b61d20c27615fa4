"""The guest's page allocator, from which the driver takes the pages of an inflation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..address_map import ram_ranges, zones
from ..kernels import buddy as kernels
from .checks import as_pfns, check_in_ram


class Buddy:
    """A binary buddy allocator over a PC guest's RAM of `memory_pages`: orders 0 to 10.

    Behaves as Linux's page allocator does for single pages: the smallest free
    block that serves is split, its upper halves go back to the free lists, and a
    freed block is merged with its buddy. Pages are taken zone by zone
    (`balloonlab.address_map.zones`), or with `one_zone` from all memory alike.
    """

    def __init__(self, memory_pages: int, one_zone: bool = False) -> None:
        self.memory_pages = memory_pages
        n = ram_ranges(memory_pages)[-1].end
        if n >= 1 << 31:
            raise ValueError(
                f"memory_pages must stay below 2**31 (8 TiB), got {memory_pages}: "
                "the allocator links pages by 32-bit numbers"
            )
        ends = [n] if one_zone else [zone.end for zone in zones(memory_pages)]
        self.blocks = kernels.Blocks(
            next=np.full(n, kernels.NONE, np.int32),
            previous=np.full(n, kernels.NONE, np.int32),
            order=np.full(n, kernels.NONE, np.int8),
            heads=np.full((len(ends), kernels.N_ORDERS), kernels.NONE, np.int64),
            zone_ends=np.array(ends, np.int64),
        )

    @classmethod
    def idle(cls, memory_pages: int) -> Buddy:
        """Make an allocator with all RAM free, in the largest blocks there are."""
        buddy = cls(memory_pages)
        for number, (start, end) in enumerate(zones(memory_pages)):
            kernels.free_range(buddy.blocks, number, start, end)
        return buddy

    @classmethod
    def holding(cls, memory_pages: int, pfns: npt.ArrayLike, name: str = "pfns") -> Buddy:
        """Make an allocator whose free memory is exactly `pfns`, handed out in that order.

        The pages are on the free list of order 0, not merged, in a single zone. ``ValueError``
        where one is not the guest's RAM or is repeated; the message calls `pfns` by `name`.
        """
        pages = as_pfns(pfns, name)
        check_in_ram(pages, memory_pages, name)
        buddy = cls(memory_pages, one_zone=True)
        kernels.free_pages_in_order(buddy.blocks, pages)
        return buddy

    @classmethod
    def joining(cls, memory_pages: int, pfns: npt.ArrayLike, name: str = "pfns") -> Buddy:
        """As `holding`, in the largest blocks that the pages make."""
        pages = as_pfns(pfns, name)
        check_in_ram(pages, memory_pages, name)
        buddy = cls(memory_pages)
        kernels.free_blocks(buddy.blocks, 0, pages)
        return buddy

    def take(self, n_pages: int) -> npt.NDArray[np.uint64]:
        """Take single pages; fewer than `n_pages` where memory runs out.

        Examples
        --------
        >>> Buddy.idle(4096).take(2)
        array([0, 1], dtype=uint64)
        """
        pages = np.zeros(n_pages, np.uint64)
        return pages[: kernels.take_blocks(self.blocks, 0, pages)]

    def free_blocks(self) -> npt.NDArray[np.int64]:
        """Count the free blocks by order, all zones together, shape (11,)."""
        orders = self.blocks.order
        return np.bincount(orders[orders >= 0], minlength=kernels.N_ORDERS)
