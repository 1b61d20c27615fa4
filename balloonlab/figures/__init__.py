"""Figures for write-ups: one function a figure, frame in, Axes out."""

from .comparison import density, grid, runs, sizes
from .explore import explore
from .gallery import draw_all
from .headline import headline, qemu_headline
from .how_it_works import page_strip
from .patterns import occupancy, patterns
from .posted import defect_rates
from .scaling import scaling
from .stages import stages
from .style import panels, save, style
from .timeline import timeline
from .traces import guests, traces

__all__ = [
    "defect_rates",
    "density",
    "draw_all",
    "explore",
    "grid",
    "guests",
    "headline",
    "occupancy",
    "page_strip",
    "panels",
    "patterns",
    "qemu_headline",
    "runs",
    "save",
    "scaling",
    "sizes",
    "stages",
    "style",
    "timeline",
    "traces",
]
