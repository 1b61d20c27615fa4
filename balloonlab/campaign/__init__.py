"""All shipped data from one command: the plan, its process starts, and what becomes of them."""

from .estimating import plan_table
from .plan import NOT_PART, PLAN, REFERENCE, Row, order, rows_of
from .running import Campaign, run
from .start import LIMITS

__all__ = [
    "LIMITS", "NOT_PART", "PLAN", "REFERENCE", "Campaign", "Row", "order", "plan_table", "rows_of",
    "run",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
