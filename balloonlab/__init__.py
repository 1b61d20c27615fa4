"""How fast can a guest give memory back: balloonlab measures it.

Page sets, wire formats, a virtqueue, a guest driver and a host device, on real
memory, with every stage timed::

    import balloonlab as bl

    pfns = bl.patterns.idle("8GiB", "7GiB")        # which pages
    stream = bl.wire.encode(pfns, "bitmap-v4")     # buffers, one per kick
    ranges = bl.wire.decode(stream, "bitmap-v4")   # what the host decodes
    run = bl.measure(memory="1GiB", repeats=3)     # inflate on real memory
    run.frame                                      # where the time went
    bl.traces.load("idle-8GiB-85-inflate")         # pages of a real Linux guest's balloon
    bl.predict(memory="1TiB", extrapolate=True)    # what nobody measured, with intervals
    bl.sweep(memory=["1GiB", "2GiB"], protocol=["pfn", "bitmap-v4"], out="sizes")  # the grid
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        campaign,
        capture,
        datasets,
        figures,
        freeing,
        harness,
        ladder,
        linux,
        model,
        qemu,
        reproduction,
        results,
        selftest,
        sizes,
        vcpu,
        wire,
    )
    from .freeing import collapse, frees, give_back, impact
    from .harness import encodings
    from .host import host_policies, host_policy
    from .ladder import bench
    from .main_job import reproduce
    from .measurement import (
        compare,
        load,
        load_timeline,
        measure,
        pool,
        ratios,
        sweep,
        timeline,
        totals,
    )
    from .model import calibrate, predict
    from .pages import patterns, traces

__all__ = [
    "bench", "calibrate", "campaign", "capture", "collapse", "compare", "datasets", "encodings",
    "figures", "freeing", "frees", "give_back", "harness", "host_policies", "host_policy", "impact",
    "ladder", "linux", "load", "load_timeline", "measure", "model", "patterns", "pool", "predict",
    "qemu", "ratios", "reproduce", "reproduction", "results", "selftest", "sizes", "sweep",
    "timeline", "totals", "traces", "vcpu", "wire",
]  # fmt: skip

_HOMES = {
    "bench": "ladder", "encodings": "harness", "reproduce": "main_job",
    **dict.fromkeys(("collapse", "frees", "give_back", "impact"), "freeing"),
    **dict.fromkeys(("host_policies", "host_policy"), "host"),
    **dict.fromkeys(("patterns", "traces"), "pages"),
    **dict.fromkeys(("calibrate", "predict"), "model"),
    **dict.fromkeys(("compare", "load", "load_timeline", "measure", "pool"), "measurement"),
    **dict.fromkeys(("ratios", "sweep", "timeline", "totals"), "measurement"),
}  # fmt: skip
"""The part that a name comes from, where it is no part itself."""


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for: the command answers before numba is loaded."""
    if name == "__version__":
        from importlib.metadata import version

        return version("balloonlab")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    part = import_module(f".{_HOMES.get(name, name)}", __name__)
    globals()[name] = getattr(part, name) if name in _HOMES else part
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
