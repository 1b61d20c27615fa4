"""Figures for write-ups: one function a figure, frame in, Axes out."""

from .headline import headline
from .how_it_works import page_strip
from .messages import discards, messages, records
from .style import save, style

__all__ = ["discards", "headline", "messages", "page_strip", "records", "save", "style"]
