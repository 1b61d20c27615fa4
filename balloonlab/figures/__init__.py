"""Figures for write-ups: one function a figure, frame in, Axes out."""

from .headline import headline
from .style import save, style

__all__ = ["headline", "save", "style"]
