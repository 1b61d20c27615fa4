"""The main job: the headline of 2016 measured here, stored, and drawn."""

from __future__ import annotations

from .figures import headline, qemu_headline, save
from .measurement.options import Guest, Host, PathLike
from .measurement.store import FIGURE
from .reproduction import Reproduction
from .reproduction.cases import measure_headline
from .sizes import Size


def reproduce(
    memory: Size | None = None,
    balloon: Size | None = None,
    repeats: int = 3,
    out: PathLike | None = None,
    progress: bool = True,
    host: Host = "lab",
    guest: Guest = "thread",
) -> Reproduction:
    """Measure the headline comparison on this machine.

    ``pfn`` with discard per page against ``bitmap-v4`` with discard per range, on memory that the
    host backs (touched) and does not (untouched), without huge pages, and one ``madvise`` over the
    same bytes as the floor. In an unmodified QEMU, ``pfn`` against ``reporting``, today's path for
    ranges. Each case has one warm-up and `repeats` measured repeats.

    Parameters
    ----------
    memory : int or str, optional
        RAM of the guest; 8 GiB, or as much as fits where that is short.
    balloon : int or str, optional
        7/8 of the memory by default.
    repeats : int
        Measured repeats of each case.
    out : path-like, optional
        Folder for the tables and ``meta.json``, as in `balloonlab.measure`, and the figure as SVG
        and PNG. An unfinished run of the same arguments, machine and code goes on; any other is
        moved into a folder ``earlier-<time>`` beside.
    progress, host, guest
        As in `balloonlab.measure`.

    Returns
    -------
    Reproduction

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError, RuntimeError
        As `balloonlab.measure`; the repeats so far are in `out`.
    """
    import matplotlib.pyplot as plt

    result = measure_headline(memory, balloon, repeats, out, progress, host, guest)
    if result.folder is not None:
        ax = (qemu_headline if host == "qemu" else headline)(result.frame)
        save(ax, result.folder / FIGURE)
        plt.close(ax.get_figure(root=True))
    return result
