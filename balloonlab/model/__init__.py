"""The cost model: what a message and its discards would take, predicted from their counts."""

from .accounting import discards, messages, trace_messages
from .calibration import calibrate
from .cost import CostModel, load_model
from .counting import COUNTS, counts
from .evidence import evidence
from .joint import fit
from .prediction import Prediction, predict
from .terms import COSTS
from .validation import compare, summary, validate, validated

__all__ = [
    "COSTS",
    "COUNTS",
    "CostModel",
    "Prediction",
    "calibrate",
    "compare",
    "counts",
    "discards",
    "evidence",
    "fit",
    "load_model",
    "messages",
    "predict",
    "summary",
    "trace_messages",
    "validate",
    "validated",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
