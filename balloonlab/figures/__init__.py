"""Figures for write-ups: one function per figure, run or frame in, Axes out."""

from .comparison import density, grid, guests, runs, sizes
from .crossover_map import crossover
from .defect_map import defect_rates
from .encoding_dots import encodings
from .freed_bars import frees, give_back
from .gallery import draw_all
from .headline_bars import headline
from .how_it_works import page_strip
from .impact_lines import impact
from .joined import join, panels
from .ladder_bars import ladder
from .lanes import timeline
from .lines import scaling
from .looks import save, style
from .page_maps import patterns
from .policy_dots import policies
from .predicted import predictions, validation
from .ratio_dots import ratios
from .share_bars import occupancy, traces
from .since_bars import since_2016
from .sliders import explore
from .stage_bars import stages

__all__ = [
    "crossover", "defect_rates", "density", "draw_all", "encodings", "explore", "frees",
    "give_back", "grid", "guests", "headline", "impact", "join", "ladder", "occupancy",
    "page_strip", "panels", "patterns", "policies", "predictions", "ratios", "runs", "save",
    "scaling", "since_2016", "sizes", "stages", "style", "timeline", "traces", "validation",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
