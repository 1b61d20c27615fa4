"""The sliders: what they show is counted, and follows them."""

import asyncio
import sys

import pytest

import balloonlab as bl
from balloonlab.figures.sliders import HATCHES, QUANTITIES, scattered
from balloonlab.model import COUNTS, load_model
from balloonlab.sizes import format_measured

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def model():
    return load_model()


class Shown:
    """Stands for what IPython returns of a picture that can be replaced."""

    def __init__(self):
        self.pictures = []

    def update(self, figure):
        self.pictures.append(figure)


def labels(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(("density", "mean_run"), [(0.5, 1), (0.05, 16), (0.95, 256)])
def test_both_protocols_are_counted_on_the_same_pages(model, density, mean_run):
    found, frame = scattered(model, "16MiB", density, mean_run)
    pages = bl.patterns.geometric("16MiB", round(4096 * density) * 4096, found)
    for protocol in HATCHES:
        row = frame.query("protocol == @protocol")[list(COUNTS)].iloc[0].to_dict()
        assert row == bl.model.counts(pages, protocol)
    assert found == pytest.approx(mean_run, rel=0.1)


def test_a_full_guest_has_the_shortest_runs_it_has_room_for(model):
    assert scattered(model, "16MiB", 0.9, 1)[0] == pytest.approx(9, rel=0.01)


def test_the_picture_holds_the_counts_and_the_predictions(model):
    top, bottom = bl.figures.explore(model, "256MiB", 0.25, 4).draw().axes
    _, frame = scattered(model, "256MiB", 0.25, 4)
    table = frame.groupby("protocol")[list(COUNTS)].first()
    assert labels(top) == [f"{int(table.loc[p, q]):,}" for p in HATCHES for q in QUANTITIES]
    assert "25 % ballooned in runs of 4 pages" in top.get_title(loc="left")
    assert bottom.get_title(loc="left") == "Predicted stages (model)"
    assert [text.get_text() for text in bottom.get_yticklabels()] == list(HATCHES)
    ms = frame.query("protocol == 'pfn'")["time_ns"].sum() / 1e6
    assert labels(bottom)[0] == f"{format_measured(ms)} ms"


def test_the_legend_covers_no_number_in_the_largest_guest(model):
    figure = bl.figures.explore(model, "16GiB", 0.95, 1).draw()
    figure.draw_without_rendering()
    top = figure.axes[0]
    legend = top.get_legend().get_window_extent()
    assert not any(legend.overlaps(text.get_window_extent()) for text in top.texts)


def titles(figures):
    return [figure.axes[0].get_title(loc="left") for figure in figures]


@pytest.fixture
def explorer(model, monkeypatch):
    """One that is shown, and keeps what it draws in ``drawn``."""
    made = bl.figures.explore(model, "256MiB", 0.25, 4)
    made.drawn, draw = [], made.draw
    monkeypatch.setattr(made, "draw", lambda: made.drawn.append(draw()) or made.drawn[-1])
    made._handle = Shown()
    return made


def test_moving_a_slider_draws_anew(explorer):
    explorer.sliders["density"].value = 0.5
    explorer.sliders["mean_run"].value = 64
    explorer.sliders["memory"].value = 512 << 20
    assert titles(explorer.drawn) == [
        "256 MiB touched, 50 % ballooned in runs of 4 pages on average",
        "256 MiB touched, 50 % ballooned in runs of 64 pages on average",
        "512 MiB touched, 50 % ballooned in runs of 64 pages on average",
    ]
    assert [image.data[:4] for image in explorer._handle.pictures] == 3 * [b"\x89PNG"]


def test_of_a_fast_move_only_the_end_is_drawn(explorer):
    async def move():
        for share in (0.3, 0.4, 0.5):
            explorer.sliders["density"].value = share
        while not explorer.drawn:
            await asyncio.sleep(0)

    asyncio.run(move())
    assert titles(explorer.drawn) == [
        "256 MiB touched, 50 % ballooned in runs of 4 pages on average"
    ]


def test_sliders_come_before_the_picture(model, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    bl.figures.explore(model, "256MiB")._ipython_display_()
    assert [type(what).__name__ for what in shown] == ["VBox", "Image"]


def test_without_ipywidgets_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"pip install 'balloonlab\[notebooks\]'"):
        bl.figures.explore(model)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"memory": "3GiB"}, "memory must be a power of two"),
        ({"mean_run": 3}, "mean_run must be a power of two"),
        ({"density": 1.5}, "density must be"),
    ],
)
def test_a_start_beside_the_sliders_is_refused(argument, words):
    with pytest.raises(ValueError, match=words):
        bl.figures.explore(None, **argument)
