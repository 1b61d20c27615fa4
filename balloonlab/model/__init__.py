"""The cost model: what a message and its discards would take, predicted from their counts."""

from .accounting import discards, messages
from .cost import CostModel, fit, load_model
from .counting import COUNTS, counts
from .evidence import evidence
from .terms import COSTS
from .validation import compare, summary, validate

__all__ = [
    "COSTS", "COUNTS", "CostModel", "compare", "counts", "discards", "evidence", "fit",
    "load_model", "messages", "summary", "validate",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
