"""Every encoding of the same pages: what it takes on the wire, to make, to read and in all."""

from .counting import REFERENCES
from .crossover import best, counted, crossover, recorded_guests
from .same_pages import encodings, names
from .zero_pages import zero_pages

__all__ = [
    "REFERENCES",
    "best",
    "counted",
    "crossover",
    "encodings",
    "names",
    "recorded_guests",
    "zero_pages",
]


def __dir__() -> list[str]:
    return __all__
