"""The ladder: what each improvement is worth, from the legacy driver to the floor."""

from .measuring import bench
from .policies import policy_times
from .rungs import RUNGS, SCENARIOS, Rung, rung_times, starts_of

__all__ = ["RUNGS", "SCENARIOS", "Rung", "bench", "policy_times", "rung_times", "starts_of"]


def __dir__() -> list[str]:
    return __all__
