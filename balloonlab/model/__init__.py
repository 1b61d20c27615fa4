"""The cost model: what a message and its discards would take, predicted from their counts."""

from .cost import CostModel, fit, validate
from .forecast import forecast, idle_guests

__all__ = ["CostModel", "fit", "forecast", "idle_guests", "validate"]
