"""What is really freed, by backing and call, and what it costs a guest to take it back."""

from .beside import WAYS, impact
from .collapsing import collapse
from .every_call import frees
from .giving_back import give_back

__all__ = ["WAYS", "collapse", "frees", "give_back", "impact"]


def __dir__() -> list[str]:
    return __all__
