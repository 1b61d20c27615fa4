"""The cost model: what a message and its discards would take, predicted from their counts."""

from .cost import CostModel, fit, validate

__all__ = ["CostModel", "fit", "validate"]
