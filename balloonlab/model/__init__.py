"""The cost model: what a message and its discards would take, predicted from their counts."""

from .accounting import discards, messages
from .cost import CostModel, fit, validate
from .counting import COUNTS, counts
from .unmeasured import forecast, idle_guests

__all__ = [
    "COUNTS", "CostModel", "counts", "discards", "fit", "forecast", "idle_guests", "messages",
    "validate",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
