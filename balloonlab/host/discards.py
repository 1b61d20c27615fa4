"""How a device applies a message: a row per way, by the name that users write."""

from __future__ import annotations

from ..kernels.discard import Discard

DISCARDS = {"page": Discard.PER_PAGE, "range": Discard.PER_RANGE}
"""``page``: one call per page, as QEMU does. ``range``: adjacent ranges make one call."""
