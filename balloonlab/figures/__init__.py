"""Figures for write-ups: one function a figure, frame in, Axes out."""

from .headline import headline
from .patterns import occupancy, patterns
from .style import save, style

__all__ = ["headline", "occupancy", "patterns", "save", "style"]
