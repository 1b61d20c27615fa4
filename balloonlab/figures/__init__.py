"""Figures for write-ups: one function a figure, frame in, Axes out."""

from .comparison import density, grid, runs, sizes
from .gallery import draw_all
from .headline import headline
from .how_it_works import page_strip
from .patterns import occupancy, patterns
from .posted import strikes
from .scaling import scaling
from .stages import stages
from .style import save, style
from .timeline import timeline
from .traces import traces

__all__ = [
    "density",
    "draw_all",
    "grid",
    "headline",
    "occupancy",
    "page_strip",
    "patterns",
    "runs",
    "save",
    "scaling",
    "sizes",
    "stages",
    "strikes",
    "style",
    "timeline",
    "traces",
]
