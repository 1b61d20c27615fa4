"""Every encoding of the same pages: what it takes on the wire, to make, to read and in all."""

from .counting import REFERENCES
from .same_pages import encodings, names

__all__ = ["REFERENCES", "encodings", "names"]


def __dir__() -> list[str]:
    return __all__
