"""How fast can a guest give memory back: balloonlab measures it.

Page sets, wire formats, a virtqueue, a guest driver and a host device, on real
memory, with every stage timed::

    import balloonlab as bl

    pfns = bl.patterns.idle("8GiB", "7GiB")        # which pages
    stream = bl.wire.encode(pfns, "bitmap-v4")     # how they are told
    ranges = bl.wire.decode(stream, "bitmap-v4")   # what the host is told
    run = bl.measure(memory="1GiB", repeats=3)     # inflate on real memory
    run.frame                                      # where the time went
    bl.traces.load("idle-8GiB-85-inflate")         # pages that a real Linux guest told
    bl.sweep(memory=["1GiB", "2GiB"], protocol=["pfn", "bitmap-v4"], out="sizes")  # the grid
"""

from importlib.metadata import version

from . import capture, figures, lab, model, qemu, results, wire
from .headline import reproduce
from .lab import compare, measure, sweep
from .pages import patterns, traces

__version__ = version("balloonlab")

__all__ = [
    "capture",
    "compare",
    "figures",
    "lab",
    "measure",
    "model",
    "patterns",
    "qemu",
    "reproduce",
    "results",
    "sweep",
    "traces",
    "wire",
]
