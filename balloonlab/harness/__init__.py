"""Every encoding of the same pages: what it takes on the wire, to make, to read and in all."""

from .counting import REFERENCES
from .crossover import best, compared, counted, crossover, excess, recorded_guests
from .same_pages import encodings, names
from .zero_pages import summary as zero_summary
from .zero_pages import zero_pages

__all__ = [
    "REFERENCES", "best", "compared", "counted", "crossover", "encodings", "excess", "names",
    "recorded_guests", "zero_pages", "zero_summary",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
